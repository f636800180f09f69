"""Redirects of web servers."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import SourceError, SourceForbidden
from streamer_client.storage.http.dialect import Answer, Request, Verdict
from streamer_client.storage.http.retry import SendAgain
from streamer_client.storage.web.dialect import WebDialect

SECRET = {"Range": "bytes=0-7", "Authorization": "Bearer hush"}
REQUEST = Request("GET", "https://h/a?sig=hush", "https://h/a", SECRET)


def answered(dialect: WebDialect, status: int, location: str = "") -> Verdict:
    headers = {"location": location} if location else {}
    return dialect.refusal(REQUEST, dialect.prepared(REQUEST), Answer(status, headers))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_remembered(status: int) -> None:
    dialect = WebDialect()
    assert isinstance(answered(dialect, status, "/b?x=1"), SendAgain)
    sent = dialect.prepared(REQUEST)
    assert sent.url == "https://h/b?x=1"
    assert sent.headers == SECRET


def test_another_server_gets_no_secrets() -> None:
    dialect = WebDialect()
    assert dialect.prepared(REQUEST) == REQUEST
    answered(dialect, 302, "https://cdn/a?its=own")
    sent = dialect.prepared(REQUEST)
    assert (sent.url, sent.headers) == ("https://cdn/a?its=own", {"Range": "bytes=0-7"})


@pytest.mark.parametrize("place", ["http://h/a", "ftp://h/a", "https://h/a?sig=hush", ""])
def test_redirects_that_are_not_followed(place: str) -> None:
    with_place = answered(WebDialect(), 302, place)
    assert isinstance(with_place, SourceError)
    assert "redirected" in str(with_place)


def test_a_place_that_refuses_later_is_forgotten_once() -> None:
    dialect = WebDialect()
    answered(dialect, 302, "https://cdn/a")
    assert isinstance(answered(dialect, 403), SendAgain)
    assert dialect.prepared(REQUEST).url == REQUEST.url
    assert isinstance(answered(dialect, 403), SourceForbidden)
