"""The host and the port to which a URL leads."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.urls import Origin, origin_of, target_of


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("http://Host/a", Origin("http", "host", 80), "host"),
        ("https://h", Origin("https", "h", 443), "h"),
        ("https://u:p@h:8443/a?b", Origin("https", "h", 8443), "h:8443"),
        ("http://h:443/", Origin("http", "h", 443), "h:443"),
        ("http://[::1]:81/", Origin("http", "::1", 81), "[::1]:81"),
    ],
)
def test_origin(url: str, origin: Origin, authority: str) -> None:
    assert origin_of(url) == origin
    assert origin.authority == authority
    assert origin_of(str(origin)) == origin


@pytest.mark.parametrize(
    "url", ["ftp://h/a", "https:///a", "https://h:port/", "h/a", "http://[::1"]
)
def test_what_leads_nowhere(url: str) -> None:
    with pytest.raises(ConfigError, match="not a URL"):
        origin_of(url)


@pytest.mark.parametrize("sign", ["/", "?", "#"])
def test_a_password_that_was_not_encoded_is_not_repeated(sign: str) -> None:
    with pytest.raises(ConfigError, match="%2F") as caught:
        origin_of(f"https://user:hush{sign}hush@h/a")
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_target_is_sent_as_it_stands() -> None:
    assert target_of("http://h") == "/"
    assert target_of("http://h//a%2F/../b?x=1&y#f") == "//a%2F/../b?x=1&y"
