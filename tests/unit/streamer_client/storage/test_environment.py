"""The settings of connections that variables give."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.certificates import Authority

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.environment import flag, http_environment, http_settings, whole_number
from streamer_client.storage.http.proxies import Proxies
from streamer_client.storage.http.settings import FLOOR_BYTES_S, READ_TIMEOUT_S, HttpSettings


def test_defaults() -> None:
    assert http_settings({}) == HttpSettings(verify=True, proxies=Proxies())
    assert http_settings({"RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "0"}).read_timeout_s == (
        READ_TIMEOUT_S
    )


def test_what_is_set() -> None:
    found = http_settings(
        {
            "STREAMER_TLS_AUTHORITIES": "certificates",
            "STREAMER_TLS_VERIFY": "0",
            "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "1500",
        }
    )
    assert (found.authorities, found.verify, found.read_timeout_s) == ("certificates", False, 1.5)
    assert "certificates" not in repr(found)


def test_paths_of_a_caller_mean_nothing_where_its_source_is_read() -> None:
    paths = {"AWS_CA_BUNDLE": "/a.pem", "SSL_CERT_FILE": "/b.pem", "CURL_CA_BUNDLE": "/c.pem"}
    assert http_settings(paths) == HttpSettings()


def test_an_attempt_is_given_time_by_the_size_of_its_body() -> None:
    settings = HttpSettings(connect_timeout_s=10.0, read_timeout_s=30.0, floor_bytes_s=1000)
    assert settings.attempt_s(0) == 40.0
    assert settings.attempt_s(5000) == 45.0
    assert HttpSettings().attempt_s(8 << 20) == 40.0 + (8 << 20) / FLOOR_BYTES_S


@pytest.mark.parametrize("text", ["maybe", "2", "-1"])
def test_flags_are_flags(text: str) -> None:
    with pytest.raises(ConfigError, match="STREAMER_TLS_VERIFY="):
        http_settings({"STREAMER_TLS_VERIFY": text})
    assert flag({"A": " TRUE "}, "A", default=False)
    assert not flag({"A": "0"}, "A", default=True)
    assert flag({}, "A", default=True)


@pytest.mark.parametrize("text", ["-1", "1.5", "ten", "٣"])
def test_numbers_are_numbers(text: str) -> None:
    with pytest.raises(ConfigError, match="A="):
        whole_number({"A": text}, "A")
    assert whole_number({"A": " 7 "}, "A") == 7
    assert whole_number({"A": "1000000000"}, "A") == 1_000_000_000
    assert whole_number({"A": ""}, "A") is None


@pytest.mark.parametrize("text", ["1000000001", "9" * 5000])
def test_numbers_have_a_bound(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^A: is larger than 1000000000; give a smaller"):
        whole_number({"A": text}, "A")


def test_only_what_is_set_travels_and_certificates_in_place_of_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = Authority(tmp_path).bundle
    environ = {
        "AWS_CA_BUNDLE": bundle.name,
        "HTTPS_PROXY": "http://p:1",
        "NO_PROXY": "",
        "HOME": "/h",
        "AZURE_CLIENT_SECRET": "hush",
    }
    assert http_environment(environ) == {
        "STREAMER_TLS_AUTHORITIES": bundle.read_text(),
        "HTTPS_PROXY": "http://p:1",
    }
