"""Sums up the requests in the server's log by kind, and finds bytes that were requested twice.

Pure; `server.py` reads the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

LOG_FORMAT: Final = (
    '$request_method $status $body_bytes_sent $msec $request_time "$http_range" $uri'
)
"""The nginx `log_format` that `parsed` reads. A line is written when an answer is over."""
LISTINGS: Final = "/.listings"
"""The server's directory of listings; it also begins a listing's path in the log."""

_LINE: Final = re.compile(r'(\S+) (\d+) (\d+) ([\d.]+) ([\d.]+) "([^"]*)" (.*)')
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")


class Asked(NamedTuple):
    """One request."""

    kind: str
    """`get` of an object or a part of it, `head`, `listing`, or `refused` for a failed request."""
    uri: str
    began_s: float
    """The time at which the first byte came, in seconds since the epoch."""
    body_bytes: int
    start: int
    stop: int
    """The end of the bytes, from `start` on, that a `get` asked for."""


class Requests(NamedTuple):
    """The requests that came between two looks at the log."""

    gets: int
    heads: int
    listings: int
    refused: int
    body_bytes: int
    """Bytes of objects that the server sent."""
    again_bytes: int
    """Bytes that a GET asked for although another GET had asked for them before."""
    first_get_s: float | None
    """The time at which the first GET of an object came, in seconds since the epoch."""


def parsed(lines: Iterable[str]) -> Iterator[Asked]:
    """Parse the requests in a log's lines."""
    for line in lines:
        found = _LINE.fullmatch(line.rstrip("\n"))
        if found is None:
            raise ValueError(f"not a line of this server's log: {line!r}")
        method, status, sent, ended, took, wanted, uri = found.groups()
        kind = "refused"
        if status in {"200", "206"}:
            kind = "head" if method == "HEAD" else "get"
            kind = "listing" if uri.startswith(LISTINGS) else kind
        ranged = _RANGE.fullmatch(wanted)
        start, stop = (
            (int(ranged[1]), int(ranged[2]) + 1) if ranged and status == "206" else (0, int(sent))
        )
        yield Asked(kind, uri, float(ended) - float(took), int(sent), start, stop)


def summed(asked: Iterable[Asked]) -> Requests:
    """The counts and bytes of some requests, added up by kind."""
    everything = list(asked)
    gets = [one for one in everything if one.kind == "get"]
    count = dict.fromkeys(("get", "head", "listing", "refused"), 0)
    for one in everything:
        count[one.kind] += 1
    return Requests(
        gets=count["get"],
        heads=count["head"],
        listings=count["listing"],
        refused=count["refused"],
        body_bytes=sum(one.body_bytes for one in gets),
        again_bytes=_again_bytes(gets),
        first_get_s=min((one.began_s for one in gets), default=None),
    )


def _again_bytes(gets: list[Asked]) -> int:
    again, uri, seen = 0, "", 0
    for one in sorted(gets, key=lambda one: (one.uri, one.start, one.stop)):
        if one.uri != uri:
            uri, seen = one.uri, 0
        again += max(0, min(seen, one.stop) - one.start)
        seen = max(seen, one.stop)
    return again
