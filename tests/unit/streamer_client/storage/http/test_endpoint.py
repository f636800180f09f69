"""Endpoints as users write them, the settings that travel along, and the hosts that may
get tokens.
"""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.urls import check_bearer, parse_endpoint


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://h/", "https://h"),
        ("h:8443", "https://h:8443"),
        ("http://h:80", "http://h"),
        (" https://h/account/ ", "https://h/account"),
    ],
)
def test_endpoint_url(text: str, url: str) -> None:
    assert parse_endpoint("NAME", text) == url


@pytest.mark.parametrize("text", ["ftp://h", "https://", "https://h:x", "https://h?a=1"])
def test_what_is_no_endpoint_is_told_with_its_variable(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME"):
        parse_endpoint("NAME", text)


def test_a_password_in_an_endpoint_is_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_endpoint("NAME", "https://user:hush@h")
    assert "hush" not in str(caught.value)


def test_tokens_go_by_tls_or_stay_on_this_machine() -> None:
    for endpoint in ("https://h", "http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        check_bearer("NAME", endpoint)
    for endpoint in ("http://h", "http://10.0.0.1"):
        with pytest.raises(ConfigError, match=r"NAME=http.*plain text"):
            check_bearer("NAME", endpoint)
