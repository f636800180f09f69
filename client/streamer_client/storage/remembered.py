"""A bounded dictionary for what a store's answers teach: redirects, regions, clock skews.

Owns the bound and the lock; leaves the meaning of keys and values to the stores. Thread-safe: the
threads of a fetch worker, or of a client without a daemon, share one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Remembered(Generic[K, V]):
    """The entries that were learned last; the oldest is dropped when there are too many."""

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of a key; None where it was never learned, or is forgotten by now."""
        return self._values.get(key)

    def learn(self, key: K, value: V) -> bool:
        """Remember a value; returns whether it is another one than before."""
        with self._lock:
            if self._values.get(key) == value:
                return False
            self._values.pop(key, None)
            self._values[key] = value
            if len(self._values) > self._max_entries:
                self._values.popitem(last=False)
            return True

    def forget(self, key: K) -> bool:
        """Drop a key; returns whether there was one."""
        with self._lock:
            return self._values.pop(key, None) is not None
