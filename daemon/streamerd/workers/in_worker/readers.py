"""The readers of objects that a worker has open: one for each slab and each environment.

An environment with renewed credentials is another environment, so it gets a reader of its own. The
reader with the older credentials is closed with its slab, or earlier if other readers were used
more recently. `Pool` is the part of this module that is not about objects. The threads of a fetch
worker share all of it.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, Protocol, TypeVar

from streamer_client.storage.contract import Reader, StoredShard
from streamer_client.storage.registry import storage_for
from streamerd.workers.jobs import digest_of


class Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


@dataclass(slots=True)
class _Entry(Generic[T]):
    thing: T | None = None
    error: Exception | None = None
    """Why the thing could not be opened. It is raised in each thread that waited for the thing."""
    opening: Lock = field(default_factory=Lock)
    users: int = 0
    dropped: bool = False


class Pool(Generic[T]):
    """Shares things among threads; at most `capacity` unused things stay open.

    If there are more, the least recently used one is closed. A thing is never closed while a thread
    uses it. Thread-safe. Opening a thing may take many seconds if it is reached over a network, so
    a thread waits only for the thing that it asked for.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[Hashable, _Entry[T]] = OrderedDict()
        self._lock = Lock()

    @contextlib.contextmanager
    def borrow(self, key: Hashable, opener: Callable[[], T]) -> Iterator[T]:
        """Use the thing of `key`; opens it if it is not open. Errors of `opener` are passed on."""
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
        """Remove an entry, so that the next thread that asks for its thing opens it anew."""
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
        """Close the thing of `key`, at once or when the last thread that uses it is done."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return
            entry.dropped = True
            if entry.users:
                return
        _close(entry)

    def drop_where(self, meant: Callable[[Hashable], bool]) -> None:
        """Drop the things of all keys for which `meant` is true."""
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


class OpenedObject:
    """A reader, and the number of its retries that the daemon was told."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._reported_retries = 0
        self._lock = Lock()

    def take_retries(self) -> int:
        """The number of retries since the last call of this, which any thread may have made."""
        with self._lock:
            retries = self.reader.retries
            fresh, self._reported_retries = retries - self._reported_retries, retries
        return fresh

    def close(self) -> None:
        self.reader.close()


class Readers:
    """The readers of a worker, of which at most `capacity` idle ones stay open."""

    def __init__(self, capacity: int) -> None:
        self._pool: Pool[OpenedObject] = Pool(capacity)

    @contextlib.contextmanager
    def borrow(
        self, slab: int, shard: StoredShard, environment: Mapping[str, str], digest: str = ""
    ) -> Iterator[OpenedObject]:
        """Use the shard's reader for this environment. Errors of the storage are passed on.

        `digest` is the environment's digest, if the caller knows it, else empty.
        """

        def opened() -> OpenedObject:
            return OpenedObject(storage_for(shard.uri, environment).open(shard))

        with self._pool.borrow((slab, digest or digest_of(environment)), opened) as shared:
            yield shared

    def drop(self, slab: int) -> None:
        """Close a slab's readers, at once or when the last threads that use them are done."""
        self._pool.drop_where(lambda key: isinstance(key, tuple) and key[0] == slab)

    def forget(self, environment: str) -> None:
        """Close the readers of an environment with this digest, and with them its secrets."""
        self._pool.drop_where(lambda key: isinstance(key, tuple) and key[1] == environment)

    def close(self) -> None:
        """Close all readers."""
        self._pool.close()
