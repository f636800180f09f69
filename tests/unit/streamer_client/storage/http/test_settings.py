"""What variables say about connections."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.proxies import Proxies
from streamer_client.storage.http.settings import (
    READ_TIMEOUT_S,
    HttpSettings,
    flag,
    http_settings,
    whole_number,
)


def test_defaults() -> None:
    assert http_settings({}) == HttpSettings(verify=True, proxies=Proxies())
    assert http_settings({"RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "0"}).read_timeout_s == (
        READ_TIMEOUT_S
    )


def test_what_is_set() -> None:
    found = http_settings(
        {
            "AWS_CA_BUNDLE": "/a.pem",
            "SSL_CERT_FILE": "/b.pem",
            "STREAMER_TLS_VERIFY": "0",
            "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS": "1500",
        }
    )
    assert (found.ca_bundle, found.verify, found.read_timeout_s) == ("/a.pem", False, 1.5)
    assert http_settings({"SSL_CERT_FILE": "/b.pem"}).ca_bundle == "/b.pem"


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
    assert whole_number({"A": ""}, "A") is None
