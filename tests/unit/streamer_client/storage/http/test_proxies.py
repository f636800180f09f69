"""The proxy for each host."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.proxies import Proxy, proxies_of
from streamer_client.storage.http.urls import origin_of


def way(url: str, **environment: str) -> str:
    return str(proxies_of(environment).of(origin_of(url)))


def test_variables_in_both_cases() -> None:
    both = {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:2"}
    assert way("http://h", **both) == "http://p:1"
    assert way("https://h", **both) == "http://p:2"
    assert way("https://h", HTTPS_PROXY="http://p:2", https_proxy="http://q:3") == "http://q:3"
    assert way("https://h", ALL_PROXY="p:4") == "http://p:4"
    assert way("https://h", HTTP_PROXY="http://p") == "None"
    assert way("http://h", HTTP_PROXY="http://p") == "http://p:80"


@pytest.mark.parametrize(
    ("rules", "url", "past"),
    [
        ("*", "https://anything", True),
        ("h.example", "https://h.example", True),
        ("example", "https://h.example", True),
        (".example", "https://h.example", True),
        ("*.example", "https://h.example", True),
        ("ample", "https://h.example", False),
        ("a, H.Example ,b", "https://h.example", True),
        ("h:9000", "https://h:9000", True),
        ("h:9000", "https://h", False),
        ("10.0.0.0/8", "http://10.1.2.3:9000", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("127.0.0.1", "http://127.0.0.1:9000", True),
        ("::1", "http://[::1]:9000", True),
        ("", "https://h", False),
    ],
)
def test_no_proxy(rules: str, url: str, past: bool) -> None:
    found = way(url, ALL_PROXY="http://p:1", NO_PROXY=rules)
    assert found == ("None" if past else "http://p:1")


def test_a_proxy_that_wants_to_know_who_asks() -> None:
    proxy = proxies_of({"https_proxy": "http://us%65r:p%40ss@p:1"}).of(origin_of("https://h"))
    assert proxy == Proxy("p", 1, "Basic dXNlcjpwQHNz")
    assert "Basic" not in repr(proxy)
    assert "user" not in str(proxy)


@pytest.mark.parametrize(
    "text",
    [
        "https://u:hush@p:1",
        "socks5://p:1",
        "http://p:port",
        "http://u:hush/hush@p:1",
        "u:hush/hush@p:1",
    ],
)
def test_proxies_of_other_kinds_are_refused_when_they_would_be_used(text: str) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        proxies = proxies_of({name: text, "NO_PROXY": "covered"})
        assert "hush" not in repr(proxies)
        assert proxies.of(origin_of("https://covered")) is None
        with pytest.raises(ConfigError, match=f"^{name}=.*add h to NO_PROXY") as caught:
            proxies.of(origin_of("https://h"))
        assert "hush" not in str(caught.value)
    for_plain_text = proxies_of({"HTTPS_PROXY": text})
    assert for_plain_text.of(origin_of("http://h")) is None


def test_the_variable_that_was_set_is_known() -> None:
    given = {"all_proxy": "http://a:1", "HTTPS_PROXY": "http://s:2"}
    variables = [proxies_of(given).of(origin_of(url)) for url in ("http://h", "https://h")]
    assert [proxy.variable for proxy in variables if proxy] == ["all_proxy", "HTTPS_PROXY"]
