"""The file of a caller that is read for its authorities, the part of it that travels,
and refusals.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.support.certificates import Authority

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.limits import MAX_ENVIRONMENT_BYTES
from streamer_client.storage.environment import AUTHORITIES, authorities_of
from streamer_client.storage.http.transport.tls import MAX_BUNDLE_BYTES, read_bundle, tls_context


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Authority(tmp_path).bundle


def test_certificates_travel_and_nothing_that_lies_beside_them(
    bundle: Path, tmp_path: Path
) -> None:
    Authority(tmp_path).server_context()  # writes a private key and a certificate into one file
    both = tmp_path / "both.pem"
    both.write_text(f"# Würzburg\n{bundle.read_text()}{(tmp_path / 'server.pem').read_text()}")
    found = read_bundle("AWS_CA_BUNDLE", str(both))
    assert found.count("BEGIN CERTIFICATE") == 2
    assert "PRIVATE KEY" not in found
    assert found.isascii()
    # The server's certificate is not that of an authority, so it does not count.
    assert len(tls_context(found, verify=True).get_ca_certs()) == 1


def test_which_name_wins(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(bundle.parent))
    text = {AUTHORITIES: bundle.read_text()}
    home = f"~/{bundle.name}"
    assert authorities_of({"AWS_CA_BUNDLE": home, "SSL_CERT_FILE": "/none"}, profile="/no") == text
    assert authorities_of({"SSL_CERT_FILE": "/none"}, profile=home) == text
    assert authorities_of({"SSL_CERT_FILE": home, "AWS_CA_BUNDLE": ""}) == text
    assert authorities_of({"REQUESTS_CA_BUNDLE": home}) == {}
    with pytest.raises(ConfigError, match=r"^ca_bundle of the profile=/no: "):
        authorities_of({}, profile="/no")


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), str(tmp_path), "/dev/zero"):
        with pytest.raises(ConfigError, match=r"^SSL_CERT_FILE=.*it is no regular file.*unset"):
            authorities_of({"SSL_CERT_FILE": path})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        (b"", "no certificate"),
        (b"-----BEGIN CERTIFICATE-----\n", "no certificate"),
        (b"\xff\x00" * 100, "no certificate"),
        (b"x" * (MAX_BUNDLE_BYTES + 1), "more than 384 KiB"),
    ],
    ids=["missing", "empty", "cut off", "binary", "long"],
)
def test_what_cannot_be_used(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        read_bundle("AWS_CA_BUNDLE", str(path))
    assert str(caught.value).startswith(f"AWS_CA_BUNDLE={path}: cannot be used: ")
    with pytest.raises(ConfigError, match="null"):
        read_bundle("AWS_CA_BUNDLE", "a\0b")


def test_what_is_no_certificate_after_all_is_told_where_it_is_used() -> None:
    text = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for given in (text, "nothing of the kind", "\u2028"):
        with pytest.raises(ConfigError, match="AWS_CA_BUNDLE or SSL_CERT_FILE"):
            tls_context(given, True, "AWS_CA_BUNDLE or SSL_CERT_FILE")


def test_a_whole_systems_bundle_fits_beside_credentials() -> None:
    assert MAX_BUNDLE_BYTES + (100 << 10) <= MAX_ENVIRONMENT_BYTES
    path = "/etc/ssl/certs/ca-certificates.crt"
    if not os.path.exists(path):
        pytest.skip("this system keeps its bundle elsewhere")
    found = read_bundle("SSL_CERT_FILE", path)
    listed = ["openssl", "storeutl", "-noout", "-certs", path]
    total = subprocess.run(listed, capture_output=True, check=True, text=True).stdout
    assert f"Total found: {found.count('BEGIN CERTIFICATE')}" in total
