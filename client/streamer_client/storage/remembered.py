"""A bounded dictionary for lessons from a store's answers: redirects, regions, clock skews.

Owns the bound and the lock, and which listings must not be believed; leaves the meaning of other
keys and values to the stores. Thread-safe: the threads of a worker, or of a client without a
daemon, share one.
"""

from __future__ import annotations

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


DOUBTED_LISTINGS: Final[Remembered[str, bool]] = Remembered(256)
"""The places, as `place_of` names them, whose listing contradicted an object.

Most stores list the ETag and the size that a HEAD would tell, so that no object needs its own HEAD.
Some list others than they serve. After such a contradiction, each object is looked at, until a
whole listing agrees with its objects again. Storages are made anew for each request, so the whole
process shares this.
"""


def place_of(identity: str, uri: str) -> str:
    """The endpoint and the bucket of an object, which all listings of a bucket have in common."""
    scheme, _, path = uri.partition("://")
    return f"{identity.partition(' ')[0]} {scheme}://{path.partition('/')[0]}"
