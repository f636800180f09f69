"""What refusals taught this process: where buckets really are, and how wrong its clock is.

Shared by all storages of the process, since each job makes its own. Thread-safe; bounded; holds
nothing secret.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, Generic, TypeVar

V = TypeVar("V")

MAX_PLACES: Final = 1024


class Memory(Generic[V]):
    """The values learned last, by endpoint and name."""

    def __init__(self, max_entries: int = MAX_PLACES) -> None:
        self._max_entries = max_entries
        self._values: OrderedDict[tuple[str, str], V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, endpoint: str, name: str) -> V | None:
        return self._values.get((endpoint, name))

    def learn(self, endpoint: str, name: str, value: V) -> bool:
        """Remember; whether it was news."""
        with self._lock:
            if self._values.get((endpoint, name)) == value:
                return False
            self._values.pop((endpoint, name), None)
            self._values[endpoint, name] = value
            if len(self._values) > self._max_entries:
                self._values.popitem(last=False)
            return True


class Learned:
    """All that can be learned."""

    def __init__(self) -> None:
        self.regions: Memory[str] = Memory()
        """Region of a bucket."""
        self.hosts: Memory[str] = Memory()
        """`scheme://host` that a bucket's requests were redirected to."""
        self.skews: Memory[float] = Memory()
        """Seconds that a store's clock is ahead of ours; of the name ''."""


LEARNED: Final = Learned()
"""The process's own."""
