"""What keeps held shards resident: the mappings that views of them are made of.

The lease counts mappings of one load and ends each shard's lease with its mapping, the load with
the last of them. Its state belongs to the wire's thread; finalizers only queue calls to it.
"""

from __future__ import annotations

import mmap
import weakref

from streamer_client.connect.connection import Connection
from streamer_client.contract.messages import Close, ReleaseShards


class Lease:
    """The leases of one load that mappings hold."""

    def __init__(self, connection: Connection, load: int) -> None:
        self._connection = connection
        self._load = load
        self._mapped: set[int] = set()
        self._closing = False

    def attach(self, shard: int, mapping: mmap.mmap) -> None:
        """Hold `shard` until `mapping` is collected; any tensor made of it keeps it alive."""
        connection = self._connection
        connection.call_soon(lambda: self._mapped.add(shard))
        finalizer = weakref.finalize(mapping, connection.call_soon, lambda: self._unmapped(shard))
        finalizer.atexit = False  # tensors may live on until the very end

    def close(self, shards: range) -> None:
        """Nothing but mappings uses the load any more: release what no mapping holds."""
        self._connection.stop_listening(self._load)
        self._connection.call_soon(lambda: self._close(shards))

    def _close(self, shards: range) -> None:
        self._closing = True
        if not self._mapped:
            self._end()
        elif unmapped := tuple(shard for shard in shards if shard not in self._mapped):
            self._connection.send(ReleaseShards(self._load, unmapped))

    def _unmapped(self, shard: int) -> None:
        self._mapped.discard(shard)
        if self._closing and not self._mapped:
            self._end()
        else:
            self._connection.send(ReleaseShards(self._load, (shard,)))

    def _end(self) -> None:
        self._connection.send(Close(self._load))
        self._connection.unlisten(self._load)
