"""A bounded dictionary for lessons from a store's answers: redirects, regions, clock skews.

Owns the bound and the lock, and which listings are believed; leaves the meaning of other keys and
values to the stores. Thread-safe: the threads of a worker, or of a client without a daemon, share
one.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """The entries learned last; the oldest is dropped if there are too many."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key; None if it was never learned, or is forgotten by now."""
        return self._values.get(key)

    def items(self) -> tuple[tuple[K, V], ...]:
        """All keys with their values, the oldest first."""
        with self._lock:
            return tuple(self._values.items())

    def learn(self, key: K, value: V) -> bool:
        """Remember a value; return whether it differs from the one before."""
        with self._lock:
            if self._values.get(key) == value:
                return False
            self._values.pop(key, None)
            self._values[key] = value
            if len(self._values) > self._max_entries:
                self._values.popitem(last=False)
            return True

    def forget(self, key: K) -> bool:
        """Drop a key; return whether it was there."""
        with self._lock:
            return self._values.pop(key, None) is not None


MOST_LISTINGS: Final = 256
LISTINGS: Final[Remembered[str, bool]] = Remembered(MOST_LISTINGS)
"""Whether the listing of a place, as `place_of` names it, told what an object of it then was.

Most stores list the ETag and the size that a HEAD would tell, so that no object needs its own HEAD.
Some list others than they serve. After such a contradiction, each object is looked at, until a
whole listing agrees with its objects again. Of a place without an entry, one object is looked at.
Storages are made anew for each request, so the whole process shares this.
"""
_IN_PARTS: Final = re.compile(r"-[0-9]+\"?$")
"""The end of an ETag of S3 whose object was uploaded in parts."""


def place_of(identity: str, uri: str) -> str:
    """The endpoint, the bucket and the kind of upload, by which listings may be right or wrong.

    All objects of a bucket are listed in the same way, but for those that were uploaded in parts,
    of which some stores list another ETag than they serve.
    """
    scheme, _, path = uri.partition("://")
    parts = " in parts" if _IN_PARTS.search(identity) else ""
    return f"{identity.partition(' ')[0]} {scheme}://{path.partition('/')[0]}{parts}"
