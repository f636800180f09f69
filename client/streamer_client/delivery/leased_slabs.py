"""The slabs of one load: taken from the daemon, mapped for views, leased while they are mapped.

Owns the private mappings and the descriptors, which may arrive before the answer that names their
shards. A view keeps its mapping alive, and a mapping keeps its shard's lease alive. The wire's
thread takes slabs in, under the lock of `leased_load.py`. That module decides which bytes of a slab
may be read.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from collections.abc import Iterable, Sequence

from streamer_client.connecting.connection import Connection
from streamer_client.contract.errors import SourceChanged
from streamer_client.contract.layout import PAGE_BYTES
from streamer_client.contract.messages import Close, OpenedShard, ReleaseShards
from streamer_client.delivery.slab import Slab
from streamer_client.storage.local_files import LocalFile


class LeasedSlabs:
    """Slabs and mappings of one load.

    Args:
        lease: the load's leases, which end with the mappings.
    """

    def __init__(self, lease: Lease) -> None:
        self.missing: set[int] = set()
        """Shards whose slabs the daemon has not handed out yet."""
        self._lease = lease
        self._slabs: list[Slab | None] = []
        self._mappings: dict[int, mmap.mmap] = {}
        self._early: list[tuple[int, int]] | None = []
        """Shards and descriptors that came before the answer that they belong to, as they use
        another socket. None once the shards are known, or nobody waits for them any more."""

    def expect(self, shards: Sequence[OpenedShard]) -> list[tuple[int, int]]:
        """Note which shards have slabs; return the slabs that came before this call."""
        self._slabs = [None] * len(shards)
        self.missing = {number for number, one in enumerate(shards) if one.size_bytes}
        early, self._early = self._early or [], None
        return early

    def take_in(self, pairs: Iterable[tuple[int, int]], shards: Sequence[OpenedShard]) -> None:
        """Take ownership of descriptors, given as `(shard, descriptor)`, for whatever shards.

        Raises:
            DaemonUnavailable: a slab is smaller than its shard.
        """
        if self._early is not None:
            self._early.extend(pairs)
            return
        left = deque(pairs)
        try:
            while left:
                number, descriptor = left.popleft()
                if number not in self.missing:
                    os.close(descriptor)
                    continue
                self._slabs[number] = Slab(descriptor, shards[number].size_bytes)
                self.missing.discard(number)
        finally:
            for _, descriptor in left:
                os.close(descriptor)

    def forget_early(self) -> None:
        """Close early descriptors, now and later, as nobody waits for the answer any more."""
        early, self._early = self._early or [], None
        for _, descriptor in early:
            os.close(descriptor)

    def __getitem__(self, shard: int) -> Slab | None:
        return self._slabs[shard]

    def mapping(self, shard: int) -> mmap.mmap:
        """The private mapping of a held shard; the lease lives as long as any reference to it."""
        mapping = self._mappings.get(shard)
        slab = self._slabs[shard]
        if mapping is None and slab is not None:
            mapping = self._mappings[shard] = slab.map()
            self._lease.attach(shard, mapping)
        if mapping is None:
            raise ValueError(f"shard {shard} is empty and has nothing to map")
        return mapping

    def reattach(self, dead: LeasedSlabs, held: Sequence[bool]) -> None:
        """Take over the leases of a dead load's views, if this daemon has adopted their slabs.

        Later views are made of the same mappings.
        """
        for shard, mapping in dict(dead._mappings).items():
            ours, theirs = self._slabs[shard], dead._slabs[shard]
            if ours is None or theirs is None or not ours.is_same(theirs):
                continue
            if held[shard]:
                self._mappings[shard] = mapping
                self._lease.attach(shard, mapping)

    def close(self) -> None:
        """Close the descriptors. From now on, only views keep the mappings and so the leases.

        A thread that is reading a slab keeps its descriptor until it is done.
        """
        shards = range(len(self._slabs))
        self._slabs = [None] * len(shards)
        self.missing.clear()
        self._mappings.clear()
        self._lease.close(shards)


class Lease:
    """The leases of one load's shards, each kept by the mapping that its views are made of.

    The wire's thread owns the state; finalizers only queue calls for it.

    Args:
        connection: the connection to the daemon that leases.
        load: the load's number in that connection.
    """

    def __init__(self, connection: Connection, load: int) -> None:
        self._connection = connection
        self._load = load
        self._mapped: set[int] = set()
        self._closing = False

    def attach(self, shard: int, mapping: mmap.mmap) -> None:
        """Hold `shard` until `mapping` is collected; every tensor made of the mapping keeps it."""
        connection = self._connection
        connection.call_soon(lambda: self._mapped.add(shard))
        finalizer = weakref.finalize(mapping, connection.call_soon, lambda: self._unmapped(shard))
        finalizer.atexit = False  # tensors may live on until the very end

    def close(self, shards: range) -> None:
        """Release the shards that no mapping holds, as only mappings use the load any more."""
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


def compare_page(slab: Slab, file: LocalFile, start: int) -> None:
    """Compare a page of a slab with the same page of its file.

    Raises:
        SourceChanged: the file has other bytes.
    """
    size_bytes = min(PAGE_BYTES, file.shard.size_bytes - start)
    ours = bytearray(size_bytes)
    slab.read_into([memoryview(ours)], start)
    if os.pread(file.fd, size_bytes, start) != ours:
        raise SourceChanged(
            f"{file.uri}: has other bytes now than those that lay in memory; load it again"
        )
