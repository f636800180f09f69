"""Speaks to web servers: follows redirects, authenticates, and understands refusals.

Where a URL was redirected to is remembered, so that each block is one request; a place that refuses
later (a signed URL that expired) is forgotten, and the way is asked anew. Thread-safe.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import Final
from urllib.parse import urljoin, urlsplit

from streamer_client.contract.errors import SourceError
from streamer_client.storage.http.dialect import Verdict
from streamer_client.storage.http.messages import Answer, Request
from streamer_client.storage.http.origin import origin_of
from streamer_client.storage.http.refusals import Told, refusal, refusal_text
from streamer_client.storage.http.retry import SendAgain
from streamer_client.storage.web.secrets import UrlSecrets

MAX_PLACES: Final = 4096

_MOVED: Final = (301, 302, 303, 307, 308)

_FORBIDDEN: Final = (
    "write user and password into the URL (https://user:password@host/...), or set "
    "STREAMER_HTTP_BEARER to a token; a signed URL may have expired"
)


class WebDialect:
    """The way of one caller to web servers."""

    def __init__(self, secrets: UrlSecrets) -> None:
        self.secrets = secrets
        self._places: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def prepared(self, request: Request) -> Request:
        """With the caller's secrets; where it was redirected to, without them at another server."""
        url = self.secrets.signed(request.url)
        place = self._places.get(request.url)
        if place is None:
            return replace(request, url=url, headers={**request.headers, **self.secrets.headers()})
        trusted = origin_of(place) == origin_of(url)
        allowed = self.secrets.headers() if trusted else {}
        return replace(request, url=place, headers={**request.headers, **allowed})

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        """What a web server means; see `Dialect`."""
        if answer.status in _MOVED:
            return self._moved(request, sent, answer)
        if answer.status in (401, 403, 404, 410) and self._forget(request.url):
            return SendAgain("where it was redirected to refuses by now")
        return refusal(sent, answer, Told(), forbidden=_FORBIDDEN)

    def _moved(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        place = urljoin(sent.url, answer.headers.get("location", ""))
        if urlsplit(sent.url).scheme == "https" and urlsplit(place).scheme != "https":
            return SourceError(
                f"{request.about}: redirected from https:// to something else: "
                f"{refusal_text(sent, answer, Told())}; give the URL that serves the file itself"
            )
        if place == sent.url:
            return SourceError(
                f"{request.about}: redirected to itself: {refusal_text(sent, answer, Told())}; "
                "give the URL that serves the file itself"
            )
        with self._lock:
            self._places[request.url] = place
            if len(self._places) > MAX_PLACES:
                self._places.popitem(last=False)
        return SendAgain("redirected")

    def _forget(self, url: str) -> bool:
        with self._lock:
            return self._places.pop(url, None) is not None
