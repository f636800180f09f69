"""Speaks to web servers: follows redirects, and understands refusals.

A redirected URL is remembered with its new place, so that each block costs one request. A place
that refuses later (a signed URL that expired) is forgotten, and the first server is asked again.
Holds no secrets, since each request brings its own. Thread-safe; used by all threads that read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final
from urllib.parse import urljoin, urlsplit

from streamer_client.contract.errors import SourceError
from streamer_client.storage.http.dialect import Answer, Request, Verdict
from streamer_client.storage.http.faults import ErrorDetail, refusal, refusal_text
from streamer_client.storage.http.retry import SendAgain
from streamer_client.storage.http.urls import origin_of
from streamer_client.storage.remembered import Remembered

AUTHORIZATION: Final = "Authorization"

MAX_PLACES: Final = 4096

_MOVED: Final = (301, 302, 303, 307, 308)

_FORBIDDEN: Final = (
    "write user and password into the URL (https://user:password@host/...), or set "
    "STREAMER_HTTP_BEARER to a token; a signed URL may have expired"
)


class WebDialect:
    """See `Dialect`; one for each `WebStorage`."""

    def __init__(self) -> None:
        self._places: Remembered[str, str] = Remembered(MAX_PLACES)
        """The place that each URL was redirected to."""

    def prepared(self, request: Request) -> Request:
        """The request at the place it was redirected to; another server gets no authorization."""
        place = self._places.get(request.url)
        if place is None:
            return request
        headers = dict(request.headers)
        if origin_of(place) != origin_of(request.url):
            headers.pop(AUTHORIZATION, None)
        return replace(request, url=place, headers=headers)

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        """Judge a web server's refusal; see `Dialect`."""
        if answer.status in _MOVED:
            return self._moved(request, sent, answer)
        if answer.status in (401, 403, 404, 410) and self._places.forget(request.url):
            return SendAgain("the place that it was redirected to refuses it by now")
        return refusal(sent, answer, ErrorDetail(), forbidden=_FORBIDDEN)

    def _moved(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        place = urljoin(sent.url, answer.headers.get("location", ""))
        told = refusal_text(sent, answer, ErrorDetail())
        if urlsplit(sent.url).scheme == "https" and urlsplit(place).scheme != "https":
            return SourceError(
                f"{request.about}: redirected from https:// to a place without TLS: "
                f"{told}; give the URL that serves the file itself"
            )
        if place == sent.url:
            return SourceError(
                f"{request.about}: redirected to itself: {told}; "
                "give the URL that serves the file itself"
            )
        self._places.learn(request.url, place)
        return SendAgain("redirected")
