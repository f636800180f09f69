"""Handing tensors out, shard after shard: views of held shards, private copies of all others.

Runs in the thread that iterates; the copies are made by a copier's threads, a bounded way ahead. On
a device they are private copies always: staged there, small neighbours in one allocation.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final

import torch

from streamer_client.contract.catalog import ShardCatalog, TensorEntry
from streamer_client.contract.layout import blocks_of_bytes
from streamer_client.copy.block_jobs import block_jobs
from streamer_client.copy.block_ranges import count
from streamer_client.copy.copier import Copier
from streamer_client.copy.destination import fresh
from streamer_client.copy.dtypes import torch_form
from streamer_client.copy.engines import engine_for
from streamer_client.copy.feed import Feed
from streamer_client.tensors.headers import ShardHeaders
from streamer_client.tensors.reading_order import Select, by_name, reading_order
from streamer_client.tensors.staging import Handed, Staged, StagedGroup
from streamer_client.tensors.staging_groups import (
    GroupSpan,
    StagingGroup,
    each_alone,
    small_together,
)

DEVICE_AHEAD_BYTES: Final = 1 << 30
"""The most that is staged on a device; two of the largest tensors if that is more."""


Copied = Callable[[int], None]
"""Told how many bytes of tensors were copied; of views, none are."""


def _uncounted(size_bytes: int) -> None:
    del size_bytes


def tensors(
    feed: Feed,
    headers: ShardHeaders,
    device: torch.device,
    names: frozenset[str] | None,
    copied: Copied = _uncounted,
) -> Iterator[list[Handed]]:
    """All tensors, or the named ones, in file order; with names, all headers must be known.

    They come in lists of those that are there at the same time, the last one first: to be popped.

    Raises:
        FeedClosed: the checkpoint was closed meanwhile, or another pass over it was begun.
        StreamerError: a shard could not be read.
    """
    select = by_name(names)
    shard = place = 0
    if device.type == "cpu":
        shard, place = yield from _all_views(feed, headers, select, copied)
    if shard < len(feed.shards):
        copies = _Copies(feed, headers, device, _from(select, shard, place), copied)
        yield from copies.run(shard)


def _from(select: Select, first: int, place: int) -> Select:
    """The same choice without the first `place` tensors of shard `first`."""
    return lambda shard, catalog: select(shard, catalog)[place if shard == first else 0 :]


def _all_views(
    feed: Feed, headers: ShardHeaders, select: Select, copied: Copied
) -> Generator[list[Handed], None, tuple[int, int]]:
    """Views, up to the shard and the place in it from which on there are none."""
    for shard in range(len(feed.shards)):
        catalog = headers.in_view(shard) if feed.views(shard) else None
        if catalog is None:
            return shard, 0
        place = yield from _shard_views(feed, shard, select(shard, catalog), copied)
        if place is not None:
            return shard, place
    return len(feed.shards), 0


def _shard_views(
    feed: Feed, shard: int, entries: Sequence[TensorEntry], copied: Copied
) -> Generator[list[Handed], None, int | None]:
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
        yield [(entry, _view(mapping, entry, copied))]
    return None


def _view(mapping: mmap.mmap | None, entry: TensorEntry, copied: Copied) -> torch.Tensor:
    """The tensor on the shard's own bytes; a copy where they are not aligned for its dtype.

    Each has a storage of its own that ends where it ends, so that copying or saving one tensor does
    not take the whole shard along.
    """
    dtype, shape = torch_form(entry.dtype, entry.shape)
    size = entry.stop - entry.start
    if mapping is None or not size:
        return torch.empty(shape, dtype=dtype)
    if entry.start % dtype.itemsize:
        copied(size)
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
        self,
        feed: Feed,
        headers: ShardHeaders,
        device: torch.device,
        select: Select,
        copied: Copied,
    ) -> None:
        self._feed = feed
        self._headers = headers
        self._device = device
        self._select = select
        self._copied = copied
        self._on_host = device.type == "cpu"
        self._most_ahead_bytes = feed.read_ahead_bytes
        self._largest_bytes = 0
        self._shard = 0
        self._planned_bytes = 0
        self._ahead_bytes = 0
        self._placed: StagedGroup | None = None
        self._fence: Callable[[], None] = _no_fence
        self._pending: deque[tuple[int, StagedGroup]] = deque()

    def run(self, first: int) -> Iterator[list[Handed]]:
        feed = self._feed
        order = reading_order(feed, self._headers, self._select, first)
        number = feed.begin(order)
        engine = engine_for([self._device], feed)
        self._fence = engine.fence
        with Copier[Staged](feed, number, engine, count(order)) as copier:
            for shard in range(first, len(feed.shards)):
                catalog = self._headers.in_pass(number, shard)
                yield from self._shard_copies(copier, shard, catalog)
            while self._pending:
                yield from self._finished()
                if self._pending:
                    _count(copier.collect())

    def _shard_copies(
        self, copier: Copier[Staged], shard: int, catalog: ShardCatalog
    ) -> Iterator[list[Handed]]:
        entries: Sequence[TensorEntry] = self._select(shard, catalog)
        self._shard, self._planned_bytes = shard, 0
        groups = list(each_alone(entries) if self._on_host else small_together(entries))
        if not self._on_host:
            self._widen(groups)
        spans = [span for group in groups for span in group.spans]
        for job in block_jobs(shard, spans, self._feed.block_bytes, self._place):
            _count(copier.submit(job))
            self._planned_bytes = (job.block + 1) * self._feed.block_bytes
            yield from self._finished()
            while self._must_wait():
                _count(copier.collect())
                yield from self._finished()

    def _place(self, span: GroupSpan) -> Staged:
        """Memory for a span; that of its whole group with the first."""
        if self._placed is None or span.group.spans[0] is span:
            self._placed = placed = StagedGroup(span.group, self._device)
            self._fence()
            self._ahead_bytes += placed.size_bytes
            self._pending.append((self._shard, placed))
        return Staged(self._placed, span)

    def _widen(self, groups: Sequence[StagingGroup]) -> None:
        """Choose what may be ahead so that the next block's tensors still stay below the bound."""
        largest = max((group.size_bytes for group in groups), default=0)
        self._largest_bytes = largest = max(largest, self._largest_bytes)
        bound = max(DEVICE_AHEAD_BYTES, 2 * largest)
        self._most_ahead_bytes = bound - largest - self._feed.block_bytes

    def _finished(self) -> Iterator[list[Handed]]:
        while self._pending and self._pending[0][1].left_bytes == 0:
            _, placed = self._pending.popleft()
            self._ahead_bytes -= placed.size_bytes
            handed = placed.tensors()
            handed.reverse()
            self._copied(sum(entry.stop - entry.start for entry, _ in handed))
            if placed is self._placed:
                self._placed = None
            del placed
            yield handed

    def _must_wait(self) -> bool:
        """Too much is copied ahead, and the next tensors need nothing that is not planned yet."""
        if not self._pending or self._ahead_bytes <= self._most_ahead_bytes:
            return False
        shard, head = self._pending[0]
        return shard < self._shard or head.stop <= self._planned_bytes


def _count(completed: Iterator[Staged]) -> None:
    """Note for each span that was completed that its group has less to wait for."""
    for staged in completed:
        staged.owner.left_bytes -= staged.span.stop - staged.span.start


def _no_fence() -> None:
    """Before the pass there is no engine to tell."""
