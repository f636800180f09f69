"""What statuses mean whatever kind of store sends them, and how a refusal is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
    StreamerError,
)
from streamer_client.storage.http.dates import date_of
from streamer_client.storage.http.messages import Answer, Request
from streamer_client.storage.http.retry import Transient
from streamer_client.storage.http.shown import endpoint_of, shown

MAY_PASS: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

_REQUEST_IDS: Final = (
    "x-amz-request-id",
    "x-amz-id-2",
    "x-ms-request-id",
    "x-guploader-uploadid",
    "x-request-id",
    "cf-ray",
)


@dataclass(frozen=True, slots=True)
class Told:
    """What the store's own error says, as far as it says anything."""

    code: str = ""
    message: str = ""


def refusal_text(request: Request, answer: Answer, told: Told) -> str:
    """Status, the store's words, endpoint and request id, for the middle of an error's text."""
    words = [f"HTTP {answer.status}", told.code]
    if told.message:
        words.append(f'"{shown(told.message)[:300]}"')
    ids = [f"{name} {answer.headers[name]}" for name in _REQUEST_IDS if name in answer.headers]
    told_ids = f" ({', '.join(ids)})" if ids else ""
    said = " ".join(word for word in words if word)
    return f"{said} from {endpoint_of(request.url)}{told_ids}"


def refusal(
    request: Request,
    answer: Answer,
    told: Told,
    *,
    forbidden: str = "",
    missing: str = "",
    other: str = "",
) -> StreamerError | Transient:
    """The meaning of a status alone.

    Args:
        request: what was asked.
        answer: what was answered.
        told: what the store's own error says.
        forbidden: the remedy for 401 and 403.
        missing: the remedy for 404.
        other: the remedy for statuses that mean nothing in particular.
    """
    text = refusal_text(request, answer, told)
    match answer.status:
        case status if status in MAY_PASS:
            return Transient(text, after_s=retry_after_s(answer.headers))
        case 401 | 403:
            remedy = forbidden or "give credentials that may read it"
            return SourceForbidden(f"{request.about}: may not be read: {text}; {remedy}")
        case 407:
            return SourceForbidden(
                f"{request.about}: the proxy wants to know who asks: {text}; write it as "
                "http://user:password@host:port in HTTP_PROXY or ALL_PROXY"
            )
        case 404 | 410:
            remedy = missing or "check the name for typing errors"
            return SourceNotFound(f"{request.about}: does not exist: {text}; {remedy}")
        case 412 | 416:
            return SourceChanged(
                f"{request.about}: changed since the load began: {text}; "
                "open the checkpoint again when nothing writes to it"
            )
        case _:
            remedy = other or "check the endpoint, and what the store's log says of this request"
            return SourceError(f"{request.about}: refused: {text}; {remedy}")


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks to wait (RFC 9110, section 10.2.3); 0 without one."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    then, now = date_of(text), date_of(headers.get("date", ""))
    return max(0.0, (then - now).total_seconds()) if then and now else 0.0
