"""The opened objects of a worker: one reader for each slab and each caller's environment.

Renewed credentials are another environment and so get a reader of their own; the one before is
closed when it is the least used, or with its slab. Shared by the threads of a fetch worker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from threading import Lock

from streamer_client.storage.contract import Reader, StoredShard
from streamer_client.storage.registry import storage_for
from streamerd.workers.environments import digest_of
from streamerd.workers.pool import Pool


class OpenedShard:
    """A reader, and how many of its retries were told."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._told = 0
        self._lock = Lock()

    def take_retries(self) -> int:
        """Retries since the last time this was asked, by whichever thread."""
        with self._lock:
            retries = self.reader.retries
            fresh, self._told = retries - self._told, retries
        return fresh

    def close(self) -> None:
        self.reader.close()


class Readers:
    """At most `capacity` idle readers stay open."""

    def __init__(self, capacity: int) -> None:
        self._pool: Pool[OpenedShard] = Pool(capacity)

    @contextlib.contextmanager
    def borrow(
        self, slab: int, shard: StoredShard, environment: Mapping[str, str]
    ) -> Iterator[OpenedShard]:
        """Use the shard's reader for this environment; the storage's errors pass."""

        def opened() -> OpenedShard:
            return OpenedShard(storage_for(shard.uri, environment).open(shard))

        with self._pool.borrow((slab, digest_of(environment)), opened) as shared:
            yield shared

    def drop(self, slab: int) -> None:
        """Close a slab's readers, at once or after their last users."""
        self._pool.drop_where(lambda key: isinstance(key, tuple) and key[0] == slab)

    def forget(self, environment: str) -> None:
        """Close the readers of an environment with this digest, and with them its secrets."""
        self._pool.drop_where(lambda key: isinstance(key, tuple) and key[1] == environment)

    def close(self) -> None:
        """Give everything back."""
        self._pool.close()
