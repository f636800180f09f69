"""Speaks S3: addresses and signs each request, and understands refusals.

Lessons from refusals (the bucket's region, another host, the store's time) are remembered for the
whole process, since each job makes its own storage; the next attempt is then right. Thread-safe.
The memory of lessons is bounded and holds nothing secret.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from streamer_client.contract.errors import CredentialsExpired
from streamer_client.contract.printable import printable
from streamer_client.storage.http.dialect import Answer, Request, Verdict
from streamer_client.storage.http.faults import ErrorDetail, refusal, refusal_text, retry_after_s
from streamer_client.storage.http.headers import date_of, utc_now
from streamer_client.storage.http.retry import SendAgain, Transient
from streamer_client.storage.remembered import Remembered
from streamer_client.storage.s3.endpoints import bucket_url
from streamer_client.storage.s3.remedies import EXPIRED, PASSING, permission, remedy
from streamer_client.storage.s3.settings import S3Settings
from streamer_client.storage.s3.uri import requested
from streamer_client.storage.xml import Element, NotXml, parse_xml

MAX_BUCKETS: Final = 1024


class Lessons:
    """The lessons from refusals, by endpoint and, if they concern one, by bucket."""

    def __init__(self) -> None:
        self.regions: Remembered[tuple[str, str], str] = Remembered(MAX_BUCKETS)
        """The region of each bucket."""
        self.hosts: Remembered[tuple[str, str], str] = Remembered(MAX_BUCKETS)
        """The `scheme://host` that a bucket's requests were redirected to."""
        self.skews: Remembered[str, float] = Remembered(MAX_BUCKETS)
        """How many seconds a store's clock is ahead of this machine's, by endpoint."""


LESSONS: Final = Lessons()
"""The lessons that this process shares."""


logger = logging.getLogger(__name__)

SKEW_S: Final = 60.0
"""A request is not refused for a clock that is wrong by less than this."""

_MOVED: Final = (301, 302, 307, 308)


class S3Dialect:
    """Requests and refusals of one store, with the credentials of one client.

    Args:
        settings: the way to reach the store, and its options.
        lessons: the lessons from refusals; by default the process's own.
        clock: the time, in UTC.
    """

    def __init__(
        self,
        settings: S3Settings,
        lessons: Lessons = LESSONS,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self.settings = settings
        self.endpoint = settings.endpoint or "aws"
        """The part of each object's identity that tells stores apart."""
        self._lessons = lessons
        self._clock = clock

    def prepared(self, request: Request) -> Request:
        """The request at the bucket's address, signed if there are keys."""
        bucket = requested(request.url).bucket
        region = self._region(bucket)
        base = bucket_url(self.settings, region, bucket)
        host = self._lessons.hosts.get((self.endpoint, bucket))
        if host:
            base = host + urlsplit(base).path
        # The key may begin with slashes of its own, so nothing is normalised.
        url = base + request.url.removeprefix(f"s3://{bucket}")
        headers = dict(request.headers)
        if self.settings.requester_pays:
            headers["x-amz-request-payer"] = "requester"
        signed = self._signed(request.method, url, headers, region)
        return replace(request, url=url, headers=signed)

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        """Judge a refusal of S3's; see `Dialect`."""
        error = _error_element(answer)
        told = ErrorDetail(error.value("Code"), error.value("Message"))
        uri = requested(request.url)
        again = self._lesson(uri.bucket, sent, answer, error)
        if again:
            logger.info(
                "event=s3_corrected about=%s reason=%r",
                printable(request.about),
                printable(str(again)),
            )
            return again
        text = refusal_text(sent, answer, told)
        if told.code in PASSING:
            return Transient(text, after_s=retry_after_s(answer.headers))
        if told.code in EXPIRED or (told.code == "InvalidToken" and "expired" in told.message):
            return CredentialsExpired(
                f"{request.about}: the credentials have expired: {text}; renew them (for example "
                "`aws sso login`), or use a profile or role that renews itself"
            )
        listing = "list-type=" in request.url
        what = remedy(self.settings, told.code)
        who = what or permission(self.settings, uri, listing=listing)
        return refusal(sent, answer, told, forbidden=who, missing=what, other=what)

    def _region(self, bucket: str) -> str:
        return self._lessons.regions.get((self.endpoint, bucket)) or self.settings.region

    def _signed(
        self, method: str, url: str, headers: dict[str, str], region: str
    ) -> Mapping[str, str]:
        keys = self.settings.keys
        if keys is None:
            return headers
        from streamer_client.storage.s3.signing import signed_headers  # noqa: PLC0415 - 10 MB

        skew_s = self._lessons.skews.get(self.endpoint) or 0.0
        now = self._clock() + dt.timedelta(seconds=skew_s)
        return signed_headers(keys, region, method, url, headers, now)

    def _lesson(
        self, bucket: str, sent: Request, answer: Answer, error: Element
    ) -> SendAgain | None:
        """Learn from a refusal; None if it teaches nothing new."""
        region = answer.headers.get("x-amz-bucket-region") or error.value("Region")
        wrong_region = answer.status in (*_MOVED, 400) or (
            answer.status == 403 and error.value("Code") == "AuthorizationHeaderMalformed"
        )
        if wrong_region and region and region != self._region(bucket):
            self._lessons.regions.learn((self.endpoint, bucket), region)
            return SendAgain(f"region={region}")
        if answer.status in _MOVED:
            return self._moved(bucket, sent.url, answer.headers.get("location", ""))
        if error.value("Code") == "RequestTimeTooSkewed":
            return self._skewed(answer)
        return None

    def _moved(self, bucket: str, url: str, location: str) -> SendAgain | None:
        old, new = urlsplit(url), urlsplit(location)
        # A redirect must not lead from TLS to plain text.
        if new.scheme != old.scheme or not new.netloc or new.netloc == old.netloc:
            return None
        host = f"{new.scheme}://{new.netloc}"
        if not self._lessons.hosts.learn((self.endpoint, bucket), host):
            return None
        return SendAgain(f"host={host}")

    def _skewed(self, answer: Answer) -> SendAgain | None:
        theirs = date_of(answer.headers.get("date", ""))
        if theirs is None:
            return None
        skew_s = (theirs - self._clock()).total_seconds()
        known_s = self._lessons.skews.get(self.endpoint) or 0.0
        if abs(skew_s - known_s) < SKEW_S:
            return None
        self._lessons.skews.learn(self.endpoint, skew_s)
        return SendAgain(f"clock_skew_s={skew_s:.0f}")


def _error_element(answer: Answer) -> Element:
    """The `<Error>` of a refusal; an empty one if the body is not S3's (a proxy's page)."""
    try:
        root = parse_xml(answer.body)
    except NotXml:
        return Element("Error")
    return root if root.name == "Error" else Element("Error")
