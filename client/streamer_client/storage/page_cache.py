"""Finds out which bytes of an open file the page cache holds, without making it read any.

Asking first is cheaper than trying. A read with RWF_NOWAIT answers from the cache or refuses at
once, but since Linux 5.10 each refusal starts the device's read-ahead. When O_DIRECT then reads the
rest, the device reads those bytes twice (with blocks and read-ahead of 8 MiB: 2.00 x the bytes of a
cold file; if asked first: 1.00 x). cachestat(2), Linux 6.5, answers exactly and reads nothing. It
may be refused to a user who neither owns the file nor may write to it. Then one page is tried with
RWF_NOWAIT, which brings in that page and no other (1.0005 x).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

SEGMENT_BYTES: Final = 1 << 20
"""A partly cached block is cut into segments of this size."""

_CACHESTAT: Final = 451
"""The number of the system call, the same on every architecture."""


class CachedRun(NamedTuple):
    """Bytes `start` to `stop` (half-open); `cached` is None if that cannot be told."""

    start: int
    stop: int
    cached: bool | None


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)


class PageCache:
    """The page cache of one file, through a descriptor that stays its owner's.

    Attributes:
        nowait: whether reads with RWF_NOWAIT work on this file. If not (tmpfs, overlayfs), another
            file may hold its pages, so that a count of none proves nothing.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        self._fd = fd
        self._countable = True
        # The question is put at the file's end, where there is nothing to read ahead.
        self.nowait = self._answers(size_bytes) is not None

    def runs(self, start: int, stop: int) -> list[CachedRun]:
        """Cut bytes `start` to `stop` (not empty) into cached and uncached runs."""
        pages = self._cached_pages(start, stop)
        if pages is None:
            return [CachedRun(start, stop, self._one_page_cached(start, stop))]
        if pages == _pages(start, stop):
            return [CachedRun(start, stop, True)]
        if pages == 0 or not self.nowait:
            return [CachedRun(start, stop, False if self.nowait else None)]
        return _merged(
            CachedRun(left, right, self._cached_pages(left, right) == _pages(left, right))
            for left, right in _segments(start, stop)
        )

    def _cached_pages(self, start: int, stop: int) -> int | None:
        """How many pages are in the cache; None if the kernel does not tell."""
        if not self._countable:
            return None
        span, counts = _Range(start, stop - start), _Counts()
        refused = _libc.syscall(
            ctypes.c_long(_CACHESTAT), self._fd, ctypes.byref(span), ctypes.byref(counts), 0
        )
        if refused:
            self._countable = False
            return None
        return int(counts.cached)

    def _one_page_cached(self, start: int, stop: int) -> bool | None:
        """Judge all pages by a random one: a refused read brings its page in, so they must vary."""
        return self._answers(random.randrange(start, stop)) if self.nowait else None  # noqa: S311

    def _answers(self, position: int) -> bool | None:
        """Whether the byte is in the cache; None if this file system does not tell."""
        try:
            os.preadv(self._fd, [bytearray(1)], position, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                return None
            raise
        return True


def _pages(start: int, stop: int) -> int:
    return -(-stop // mmap.PAGESIZE) - start // mmap.PAGESIZE


def _segments(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for left in range(start - start % SEGMENT_BYTES, stop, SEGMENT_BYTES):
        yield max(left, start), min(left + SEGMENT_BYTES, stop)


def _merged(runs: Iterable[CachedRun]) -> list[CachedRun]:
    """The runs, with neighbours of one kind joined."""
    merged: list[CachedRun] = []
    for run in runs:
        joins = bool(merged) and merged[-1].cached == run.cached
        start = merged.pop().start if joins else run.start
        merged.append(CachedRun(start, run.stop, run.cached))
    return merged
