"""One row for each way in which an answer fails to come."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl

import pytest

from streamer_client.contract.errors import SourceError, SourceForbidden
from streamer_client.storage.environment import http_settings
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.faults import Fault, transport_fault
from streamer_client.storage.http.proxies import proxies_of
from streamer_client.storage.http.retry import Transient
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.transport.connection import CutOff
from streamer_client.storage.http.transport.deadline import TooSlow

REQUEST = Request("GET", "https://store:9000/b/k?X-Amz-Signature=hush", "s3://b/k")


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] ...")
    error.verify_message = "self-signed certificate"
    return error


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "told", "remedy", "connecting"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "broke: ", "try again", False),
        (BrokenPipeError(32, "Broken pipe"), "Broken pipe", "try again", False),
        (TimeoutError("timed out"), "sent nothing for 30 s", "REQUEST_TIMEOUT_MS", False),
        (TooSlow("sent too little: ..."), "sent too little", "fewer connections", False),
        (http.client.RemoteDisconnected("..."), "without an answer", "try again", False),
        (http.client.IncompleteRead(b"x", 9), "IncompleteRead", "try again", False),
        (CutOff(3, 9), "ended after 3 of 9 bytes", "try again", False),
        (http.client.BadStatusLine("SSH-2.0"), "does not answer in HTTP", "https://", False),
        (ssl.SSLEOFError(8, "EOF occurred"), "TLS with", "TLS set-up", False),
        (ConnectionRefusedError(111, "Connection refused"), "refused", "endpoint is right", True),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "unreachable", "firewall", True),
        (socket.gaierror(-2, "Name or service not known"), "does not resolve", "typing", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_may_pass(error: Fault, told: str, remedy: str, connecting: bool) -> None:
    fault = transport_fault(error, REQUEST, http_settings({}))
    assert isinstance(fault, Transient)
    assert told in str(fault)
    assert "store" in str(fault)
    assert remedy in fault.remedy
    assert fault.connecting == connecting


@pytest.mark.parametrize(
    ("error", "told", "remedy"),
    [
        (certificate_error(), "self-signed certificate", "set AWS_CA_BUNDLE"),
        (tls_error("WRONG_VERSION_NUMBER"), "does not speak TLS", "http://"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files", "ulimit -n"),
        (OSError("Tunnel connection failed: 403 Forbidden"), "403 Forbidden", "NO_PROXY"),
        (OSError("Tunnel connection failed: 407 Who"), "407 Who", "host:port in https_proxy"),
    ],
)
def test_what_will_not_pass(error: Fault, told: str, remedy: str) -> None:
    settings = http_settings({"https_proxy": "http://u:hush@proxy:3128"})
    found = transport_fault(error, REQUEST, settings)
    assert isinstance(found, SourceError)
    assert isinstance(found, SourceForbidden) == ("Tunnel" in str(error))
    text = str(found)
    assert text.startswith("s3://b/k: ")
    assert told in text
    assert remedy in text
    assert "https://store:9000 (through the proxy http://proxy:3128)" in text
    assert "hush" not in text


def test_a_proxy_that_cannot_reach_the_store_may_later() -> None:
    error = OSError("Tunnel connection failed: 502 Bad Gateway")
    assert isinstance(transport_fault(error, REQUEST, HttpSettings()), Transient)


def test_which_authorities_were_trusted_is_told() -> None:
    for given, told in (("a certificate", "those of the client's CA bundle"), ("", "the system's")):
        found = transport_fault(certificate_error(), REQUEST, HttpSettings(authorities=given))
        assert f"trusted are: {told}" in str(found)
        assert "a certificate" not in str(found)


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "Connection refused"), socket.gaierror(-2, "Name not known")],
)
def test_an_unreachable_proxy_is_to_be_looked_at_before_the_store(error: Fault) -> None:
    settings = HttpSettings(proxies=proxies_of({"HTTPS_PROXY": "http://proxy:3128"}))
    fault = transport_fault(error, REQUEST, settings)
    assert isinstance(fault, Transient)
    assert "through the proxy http://proxy:3128" in str(fault)
    assert "check HTTPS_PROXY and that the proxy runs" in fault.remedy
    assert "NO_PROXY" in fault.remedy
