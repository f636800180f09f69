"""The parts of a URL that may be shown."""

from __future__ import annotations

import pytest

from streamer_client.storage.http.urls import endpoint_of, shown, without_secrets

HUSHED = [
    "https://user:hush@h/a",
    "https://hush@h/a",
    "https://h/a?X-Amz-Signature=hush",
    "https://h/a?x-amz-security-token=hush%2F1&x=1",
    "https://h/a?sv=2024&sig=hush",
    "https://h/a?a=1&token=hush",
    "https://h/a?access_token=hush#f",
    "https://h/a?AWSAccessKeyId=hush&Signature=hush",
    "https://h/a?X-Goog-Credential=hush",
    "https://h/a?Policy=hush&Key-Pair-Id=hush",
    "proxy http://user:hush@p:3128 said: no",
    "https://user:x/hush@h/a",
    "https://user:x?hush@h/a",
    "https://user:x#hush@h:81/a",
    "https://user:8080x/hush@h/a",
    "https://h/a#access_token=hush",
    "https://h/a?b=1#token=hush",
]


@pytest.mark.parametrize("text", HUSHED)
def test_secrets_are_hidden(text: str) -> None:
    assert "hush" not in shown(text)
    assert "hush" not in without_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "https://h:81/a?part=1&signal=x#f",
        "https://h:81/a@b",
        "http://[::1]:81/a@b",
        "s3://bucket/key@home",
        "no URL at all, sig=1",
        "/a/b?c",
        "a@b wrote https://h:81 and c@d",
    ],
)
def test_everything_else_stays(text: str) -> None:
    assert shown(text) == text


def test_two_signatures_of_one_object_give_one_name() -> None:
    first = "https://h/a?part=1&X-Amz-Date=1&X-Amz-Expires=60&X-Amz-Signature=abc"
    second = "https://u:p@h/a?part=1&X-Amz-Date=2&X-Amz-Expires=60&X-Amz-Signature=def"
    assert without_secrets(first) == without_secrets(second) == "https://h/a?part=1"
    assert without_secrets("https://h/a?sig=1") == "https://h/a"
    assert without_secrets("https://h/a?part=1&sig=1#f") == "https://h/a?part=1"
    assert without_secrets("https://h/a#f") == "https://h/a"


def test_endpoint() -> None:
    assert endpoint_of("https://u:p@h:9000/b/k?x=1") == "https://h:9000"
