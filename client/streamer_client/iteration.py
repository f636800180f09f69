"""Handing tensors out, shard after shard: views of held shards, private copies of all others.

Runs in the thread that iterates; the copies are made by a copier's threads, a bounded way ahead.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Generator, Iterator, Sequence

import torch

from streamer_client.block_jobs import block_jobs
from streamer_client.contract.catalog import ShardCatalog, TensorEntry
from streamer_client.contract.layout import blocks_of_bytes
from streamer_client.copier import Copier
from streamer_client.copy_engine import engine_for
from streamer_client.destination import Destination, fresh
from streamer_client.dtypes import torch_form
from streamer_client.feed import Feed
from streamer_client.headers import ShardHeaders
from streamer_client.reading_order import Select, by_name, reading_order

Handed = tuple[TensorEntry, torch.Tensor]


def tensors(
    feed: Feed, headers: ShardHeaders, device: torch.device, names: frozenset[str] | None
) -> Iterator[Handed]:
    """All tensors, or the named ones, in file order; with names, all headers must be known.

    Raises:
        FeedClosed: the checkpoint was closed meanwhile, or another pass over it was begun.
        StreamerError: a shard could not be read.
    """
    select = by_name(names)
    shard = place = 0
    if device.type == "cpu":
        shard, place = yield from _all_views(feed, headers, select)
    if shard < len(feed.shards):
        yield from _Copies(feed, headers, device, _from(select, shard, place)).run(shard)


def _from(select: Select, first: int, place: int) -> Select:
    """The same choice without the first `place` tensors of shard `first`."""
    return lambda shard, catalog: select(shard, catalog)[place if shard == first else 0 :]


def _all_views(
    feed: Feed, headers: ShardHeaders, select: Select
) -> Generator[Handed, None, tuple[int, int]]:
    """Views, up to the shard and the place in it from which on there are none."""
    for shard in range(len(feed.shards)):
        catalog = headers.in_view(shard) if feed.views(shard) else None
        if catalog is None:
            return shard, 0
        place = yield from _shard_views(feed, shard, select(shard, catalog))
        if place is not None:
            return shard, place
    return len(feed.shards), 0


def _shard_views(
    feed: Feed, shard: int, entries: Sequence[TensorEntry]
) -> Generator[Handed, None, int | None]:
    """Views of one shard's tensors; returns the place of the first that cannot be viewed."""
    mapping: mmap.mmap | None = None
    waited = range(0)
    for place, entry in enumerate(entries):
        start, stop = blocks_of_bytes(entry.start, entry.stop, feed.block_bytes)
        if start < stop and (start not in waited or stop > waited.stop):
            mapping = feed.mapped(shard, start, stop)
            if mapping is None:
                return place
            waited = range(start, stop)
        yield entry, _view(mapping, entry)
    return None


def _view(mapping: mmap.mmap | None, entry: TensorEntry) -> torch.Tensor:
    """The tensor on the shard's own bytes; a copy where they are not aligned for its dtype.

    Each has a storage of its own that ends where it ends, so that copying or saving one tensor does
    not take the whole shard along.
    """
    dtype, shape = torch_form(entry.dtype, entry.shape)
    size = entry.stop - entry.start
    if mapping is None or not size:
        return torch.empty(shape, dtype=dtype)
    if entry.start % dtype.itemsize:
        return _aligned(mapping, entry)
    count = size // dtype.itemsize
    flat = torch.frombuffer(mapping, dtype=dtype, count=count, offset=entry.start)
    return flat if len(shape) == 1 else flat.view(shape)


def _aligned(mapping: mmap.mmap, entry: TensorEntry) -> torch.Tensor:
    tensor = fresh(entry, torch.device("cpu"))
    count = entry.stop - entry.start
    stored = torch.frombuffer(mapping, dtype=torch.uint8, count=count, offset=entry.start)
    tensor.reshape(-1).view(torch.uint8).copy_(stored)
    return tensor


class _Copies:
    """One pass that makes private tensors, in file order."""

    def __init__(
        self, feed: Feed, headers: ShardHeaders, device: torch.device, select: Select
    ) -> None:
        self._feed = feed
        self._headers = headers
        self._device = device
        self._select = select
        self._shard = 0
        self._planned_bytes = 0
        self._ahead_bytes = 0
        self._pending: deque[tuple[int, Destination]] = deque()

    def run(self, first: int) -> Iterator[Handed]:
        feed = self._feed
        number = feed.begin(reading_order(feed, self._headers, self._select, first))
        with Copier(feed, number, engine_for({self._device.type})) as copier:
            for shard in range(first, len(feed.shards)):
                catalog = self._headers.in_pass(number, shard)
                yield from self._shard_copies(copier, shard, catalog)
            while self._pending:
                yield from self._finished()
                if self._pending:
                    _collect(copier)

    def _shard_copies(self, copier: Copier, shard: int, catalog: ShardCatalog) -> Iterator[Handed]:
        entries: Sequence[TensorEntry] = self._select(shard, catalog)
        self._shard, self._planned_bytes = shard, 0
        for job in block_jobs(shard, entries, self._feed.block_bytes, self._place):
            for _ in copier.submit(job):
                pass
            self._planned_bytes = (job.block + 1) * self._feed.block_bytes
            yield from self._finished()
            while self._must_wait():
                _collect(copier)
                yield from self._finished()

    def _place(self, entry: TensorEntry) -> Destination:
        destination = Destination(entry, fresh(entry, self._device))
        self._ahead_bytes += destination.left_bytes
        self._pending.append((self._shard, destination))
        return destination

    def _finished(self) -> Iterator[Handed]:
        while self._pending and self._pending[0][1].left_bytes == 0:
            _, destination = self._pending.popleft()
            entry, tensor = destination.entry, destination.tensor
            self._ahead_bytes -= entry.stop - entry.start
            del destination
            yield entry, tensor

    def _must_wait(self) -> bool:
        """Too much is copied ahead, and the next tensor needs nothing that is not planned yet."""
        if not self._pending or self._ahead_bytes <= self._feed.read_ahead_bytes:
            return False
        shard, head = self._pending[0]
        return shard < self._shard or head.entry.stop <= self._planned_bytes


def _collect(copier: Copier) -> None:
    for _ in copier.collect():
        pass
