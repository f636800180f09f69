"""The headers that describe an answer's body: dates, ranges, sizes, encodings.

Owns the reading of standard HTTP headers, and the clock that their dates are compared with. Reading
the clock is its only I/O, so any thread may call it. `proof.py` owns the headers that prove an
object's content.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import SourceChanged, SourceError


def utc_now() -> dt.datetime:
    """The time by this machine's clock, in UTC as the dates of servers are."""
    return dt.datetime.now(dt.UTC)


def date_of(text: str) -> dt.datetime | None:
    """An HTTP date as a time in UTC; None if the text is no date."""
    try:
        found = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


_MAX_DIGITS: Final = 18
"""The most digits of a size in bytes; a server could send more digits than `int` takes."""

_SIZE: Final = rf"\d{{1,{_MAX_DIGITS}}}"
_CONTENT_RANGE: Final = re.compile(rf"bytes\s+({_SIZE})-({_SIZE})/({_SIZE}|\*)", re.IGNORECASE)
_UNSATISFIED: Final = re.compile(rf"bytes\s+\*/({_SIZE})$", re.IGNORECASE)
_TOTAL: Final = re.compile(rf"()/({_SIZE})$")


def range_header(start: int, stop: int) -> dict[str, str]:
    """The header that asks for bytes `start` to `stop`, which is not included."""
    return {"Range": f"bytes={start}-{stop - 1}"}


def check_range(
    about: str, status: int, headers: Mapping[str, str], start: int, stop: int, size_bytes: int
) -> int:
    """How many bytes of the range the body has; a server may cut the range short.

    A server may ignore Range and send everything (200), which is right only if everything was asked
    for.

    Raises:
        SourceChanged: the object has another size now.
        SourceError: the answer has other bytes than those asked for.
    """
    if status == 206:
        first, last, total = _content_range(about, headers)
        if total not in (None, size_bytes):
            raise _resized(about, size_bytes, total)
        if first != start or not start <= last < stop:
            raise SourceError(
                f"{about}: asked for bytes {start} to {stop - 1}, and the server sent "
                f"{first} to {last}; a cache or proxy between confuses ranges: go past it"
            )
        return last + 1 - start
    length = _number(headers.get("content-length"))
    if length is not None and length != size_bytes:
        raise _resized(about, size_bytes, length)
    if start or stop != size_bytes:
        raise SourceError(
            f"{about}: the server answers a range (bytes {start} to {stop - 1}) with HTTP {status} "
            "and the whole file, so it cannot be read in blocks; serve it from a server that "
            "honours Range"
        )
    return size_bytes


def total_size(status: int, headers: Mapping[str, str]) -> int | None:
    """The size of the whole object, from an answer to a HEAD or to a GET of its first byte.

    An empty object answers such a GET with 416.
    """
    if status in (206, 416):
        text = headers.get("content-range", "")
        found = _UNSATISFIED.match(text) or _TOTAL.search(text)
        return int(found[found.lastindex or 0]) if found else None
    return _number(headers.get("content-length"))


def _content_range(about: str, headers: Mapping[str, str]) -> tuple[int, int, int | None]:
    text = headers.get("content-range", "")
    found = _CONTENT_RANGE.fullmatch(text.strip())
    if not found:
        raise SourceError(
            f"{about}: the server sent a part of the file (HTTP 206) and does not say which "
            f"(Content-Range {text!r}); serve it from a server that honours Range"
        )
    return int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])


def _resized(about: str, size_bytes: int, found: int | None) -> SourceChanged:
    return SourceChanged(
        f"{about}: changed since the load began (expected {size_bytes} bytes, found {found}); "
        "open the checkpoint again when nothing writes to it"
    )


def _number(text: str | None) -> int | None:
    if not text or not text.isascii() or not text.isdigit() or len(text) > _MAX_DIGITS:
        return None
    return int(text)


_NO_ENCODINGS: Final = frozenset({"", "identity", "aws-chunked", "utf-8", "utf8"})
"""Values of Content-Encoding that do not concern the bytes: `aws-chunked` tells how an object was
uploaded, and `utf-8` is a charset that somebody wrote into the wrong header."""


def leaves_bytes_alone(encoding: str) -> bool:
    """Whether a body of this Content-Encoding (a list, in any case of letters) is as stored."""
    return all(part.strip().lower() in _NO_ENCODINGS for part in encoding.split(","))


def plain_body(about: str, headers: Mapping[str, str]) -> None:
    """Refuse a compressed body: its ranges are not those of the object.

    Raises:
        SourceError: the body has an encoding, which the text names.
    """
    encoding = headers.get("content-encoding", "")
    if not leaves_bytes_alone(encoding):
        raise SourceError(
            f"{about}: is sent with Content-Encoding {encoding}, so its ranges are not those of "
            "the file; store it, and let the server send it, without compression"
        )
