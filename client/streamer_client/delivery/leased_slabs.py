"""The slabs of one load: taken in from the daemon, mapped for views, leased while they are mapped.

Owns the descriptors, which may arrive before the answer that names their shards, and the private
mappings. A view keeps its mapping alive, and a mapping its shard's lease. The wire's thread takes
slabs in, under the lock of `leased_load.py`; what of a slab may be read is that module's business.
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
        lease: ends with the mappings.
    """

    def __init__(self, lease: Lease) -> None:
        self.missing: set[int] = set()
        """Shards whose slabs the daemon has not handed out yet."""
        self._lease = lease
        self._slabs: list[Slab | None] = []
        self._mappings: dict[int, mmap.mmap] = {}
        self._early: list[tuple[int, int]] | None = []
        """Shards and descriptors that overtook the answer that they belong to: they come over
        another socket. None once the shards are known, or nobody waits for them any more."""

    def expect(self, shards: Sequence[OpenedShard]) -> list[tuple[int, int]]:
        """Note which shards have slabs; returns what came before."""
        self._slabs = [None] * len(shards)
        self.missing = {number for number, one in enumerate(shards) if one.size_bytes}
        early, self._early = self._early or [], None
        return early

    def take_in(self, pairs: Iterable[tuple[int, int]], shards: Sequence[OpenedShard]) -> None:
        """Own descriptors, whatever they are for: `(shard, descriptor)`.

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
        """Nobody answers the open any more: nothing that came, or comes yet, is wanted."""
        early, self._early = self._early or [], None
        for _, descriptor in early:
            os.close(descriptor)

    def __getitem__(self, shard: int) -> Slab | None:
        return self._slabs[shard]

    def mapping(self, shard: int) -> mmap.mmap:
        """The private mapping of a held shard; while anything refers to it the lease goes on."""
        mapping = self._mappings.get(shard)
        slab = self._slabs[shard]
        if mapping is None and slab is not None:
            mapping = self._mappings[shard] = slab.map()
            self._lease.attach(shard, mapping)
        if mapping is None:
            raise ValueError(f"shard {shard} is empty and has nothing to map")
        return mapping

    def reattach(self, dead: LeasedSlabs, held: Sequence[bool]) -> None:
        """Lease what the views of a dead load refer to, where this daemon has adopted its slabs.

        Views that are handed out from now on are made of the same mappings.
        """
        for shard, mapping in dict(dead._mappings).items():
            ours, theirs = self._slabs[shard], dead._slabs[shard]
            if ours is None or theirs is None or not ours.is_same(theirs):
                continue
            if held[shard]:
                self._mappings[shard] = mapping
                self._lease.attach(shard, mapping)

    def close(self) -> None:
        """Give up the descriptors. Views alone keep the mappings, and so the leases, from now on.

        A thread that reads a slab at this moment keeps that one until it is done.
        """
        shards = range(len(self._slabs))
        self._slabs = [None] * len(shards)
        self.missing.clear()
        self._mappings.clear()
        self._lease.close(shards)


class Lease:
    """The leases of one load's shards, each kept by the mapping that its views are made of.

    Its state belongs to the wire's thread; finalizers only queue calls to it.

    Args:
        connection: to the daemon that leases.
        load: its number there.
    """

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


def compare_page(slab: Slab, file: LocalFile, start: int) -> None:
    """Compare a page of a slab with the file that it is an image of.

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
