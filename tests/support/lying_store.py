"""A store in memory whose answers about one object contradict each other.

Owns only the lies; a `MemoryStore` gives the honest answers. A lie is told about the object whose
path contains the lie's name, so that one server tells all lies side by side.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from tests.support.fault_proxy import Asked, Reply
from tests.support.object_backends import MemoryStore

Lie = Callable[[Asked, Reply], Reply]
"""Makes a false answer from the honest one."""

EXTRA: Final = 1000
"""How many bytes false sizes differ by."""


class LyingStore:
    """A backend of a `FaultProxy`.

    Args:
        honest: the store that gives the honest answers.
        lies: each lie, by a part of the object's path.
    """

    def __init__(self, honest: MemoryStore, lies: Mapping[str, Lie]) -> None:
        self._honest = honest
        self._lies = lies

    def answer(self, asked: Asked) -> Reply:
        reply = self._honest.answer(asked)
        for name, lie in self._lies.items():
            if f"/{name}/" in asked.path or f"prefix={name}%2F" in asked.target:
                return lie(asked, reply)
        return reply


def _told(by_bytes: int) -> Lie:
    """Make the HEAD and the listing tell another size than the ranges."""

    def lie(asked: Asked, reply: Reply) -> Reply:
        if asked.method == "HEAD":
            length = str(len(reply.body) + by_bytes)
            return replace(reply, headers={**reply.headers, "Content-Length": length})
        if "list-type" in asked.target:
            body = re.sub(
                rb"<Size>(\d+)", lambda found: b"<Size>%d" % (int(found[1]) + by_bytes), reply.body
            )
            return replace(reply, body=body)
        return reply

    return lie


def _ranged(change: Callable[[Asked, Reply], Reply]) -> Lie:
    """Answer the ranges of the object falsely, and nothing else."""

    def lie(asked: Asked, reply: Reply) -> Reply:
        return change(asked, reply) if reply.status == 206 else reply

    return lie


def _with(reply: Reply, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(reply, headers={**reply.headers, **named})


def _covered(reply: Reply, start: int, stop: int, total: int) -> str:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.headers["Content-Range"])
    assert found is not None
    return f"bytes {int(found[1]) + start}-{int(found[2]) + stop}/{int(found[3]) + total}"


def _shown_as(start: int, stop: int, total: int) -> Lie:
    """Make Content-Range tell other bytes, or another size, than the body has."""
    return _ranged(
        lambda _asked, reply: _with(reply, Content_Range=_covered(reply, start, stop, total))
    )


LIES: Final[Mapping[str, Lie]] = {
    "told-longer": _told(EXTRA),
    "told-shorter": _told(-EXTRA),
    "told-huge": _told(1 << 50),
    "another-total": _shown_as(0, 0, EXTRA),
    "another-start": _shown_as(1, 1, 0),
    "more-than-asked": _shown_as(0, EXTRA, 0),
    "backwards": _shown_as(EXTRA, -(1 << 16), 0),
    "no-range": _ranged(lambda _asked, reply: _with(reply, Content_Range="")),
    "no-number": _ranged(lambda _asked, reply: _with(reply, Content_Range="bytes 0-x/y")),
    "body-short": _ranged(
        lambda _asked, reply: replace(_with(reply, Connection="close"), body=reply.body[:-1])
    ),
    "body-long": _ranged(
        lambda _asked, reply: replace(
            _with(reply, Content_Length=str(len(reply.body))),
            body=reply.body + b"HTTP/1.1 206 Partial Content\r\n" * 40,
        )
    ),
    "length-long": _ranged(
        lambda _asked, reply: _with(reply, Content_Length=str(len(reply.body) + EXTRA))
    ),
    "length-short": _ranged(
        lambda _asked, reply: _with(reply, Content_Length=str(len(reply.body) // 2))
    ),
    "length-no-number": _ranged(lambda _asked, reply: _with(reply, Content_Length="9" * 400)),
    "whole": _ranged(lambda _asked, reply: _with(replace(reply, status=200), Content_Range="")),
}
