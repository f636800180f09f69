"""Costly things that a worker's threads share: opened once, closed when unused."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


@dataclass(slots=True)
class _Entry(Generic[T]):
    thing: T | None = None
    error: Exception | None = None
    """Why it could not be opened; told to all who waited for that."""
    opening: Lock = field(default_factory=Lock)
    users: int = 0
    dropped: bool = False


class Pool(Generic[T]):
    """At most `capacity` idle things stay open, the least recently used one is closed first.

    A thing in use is never closed under its user. Thread-safe; who waits for one thing to be opened
    holds nobody else up, as opening may take many seconds where a network is in between.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._lock = Lock()

    @contextlib.contextmanager
    def borrow(self, key: Hashable, opener: Callable[[], T]) -> Iterator[T]:
        """Use the thing of `key`, opening it where it is not open; `opener`'s errors pass."""
        entry = self._take(key)
        try:
            yield self._opened(key, entry, opener)
        finally:
            self._put_back(entry)

    def _take(self, key: Hashable) -> _Entry[T]:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
            entry.users += 1
            return entry

    def _opened(self, key: Hashable, entry: _Entry[T], opener: Callable[[], T]) -> T:
        with entry.opening:
            if entry.error is not None:
                raise entry.error
            if entry.thing is None:
                try:
                    entry.thing = opener()
                except Exception as error:
                    entry.error = error
                    self._forget(key, entry)
                    raise
            return entry.thing

    def _forget(self, key: Hashable, entry: _Entry[T]) -> None:
        """Let the next who comes open it anew."""
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]

    def _put_back(self, entry: _Entry[T]) -> None:
        with self._lock:
            entry.users -= 1
            closing = [entry] if entry.dropped and not entry.users else self._surplus()
        for surplus in closing:
            _close(surplus)

    def _surplus(self) -> list[_Entry[T]]:
        count = len(self._entries) - self._capacity
        if count <= 0:
            return []
        idle = [key for key, entry in self._entries.items() if not entry.users]
        return [self._entries.pop(key) for key in idle[:count]]

    def drop(self, key: Hashable) -> None:
        """Close the thing of `key`, at once or when its last user has put it back."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return
            entry.dropped = True
            if entry.users:
                return
        _close(entry)

    def drop_where(self, meant: Callable[[Hashable], bool]) -> None:
        """Drop the things of all keys that are meant."""
        with self._lock:
            keys = [key for key in self._entries if meant(key)]
        for key in keys:
            self.drop(key)

    def close(self) -> None:
        """Drop everything."""
        for key in list(self._entries):
            self.drop(key)


def _close(entry: _Entry[T]) -> None:
    if entry.thing is not None:
        entry.thing.close()
