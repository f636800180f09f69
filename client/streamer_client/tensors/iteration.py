"""Handing tensors out, shard after shard.

On the CPU, tensors of a shard that stays in memory as a whole are views of its bytes; all others
are private copies. On a device all tensors are private copies, and small neighbours share an
allocation (`staging.py`). Runs in the thread that iterates. A copier's threads fill copies
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final

import torch

from streamer_client.contract.layout import blocks_of_bytes
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.copy.copier import Copier
from streamer_client.copy.destination import fresh
from streamer_client.copy.dtypes import torch_form
from streamer_client.copy.engines import engine_for
from streamer_client.copy.feed import Feed
from streamer_client.copy.plan import block_jobs, count
from streamer_client.tensors.headers import ShardHeaders
from streamer_client.tensors.selection import Select, by_name, reading_order
from streamer_client.tensors.staging import (
    GroupSpan,
    Handed,
    Staged,
    StagedGroup,
    StagingGroup,
    each_alone,
    small_together,
)

DEVICE_AHEAD_BYTES: Final = 1 << 30
"""The most that is allocated on a device ahead of the caller; or two of the largest allocations, if
they are larger."""


Copied = Callable[[int], None]
"""Told how many bytes of tensors were copied; views need no copy."""


def _uncounted(size_bytes: int) -> None:
    del size_bytes


def tensors(
    feed: Feed,
    headers: ShardHeaders,
    device: torch.device,
    names: frozenset[str] | None,
    copied: Copied = _uncounted,
) -> Iterator[list[Handed]]:
    """All tensors, or only the named ones, in file order; names require all headers to be known.

    Yields:
        Tensors that became ready together, in reverse file order. The caller takes them from the
        list's end with `pop`, so that a tensor that the caller drops is freed at once.

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
    """The same choice as `select`, without the first `place` tensors of shard `first`."""
    return lambda shard, catalog: select(shard, catalog)[place if shard == first else 0 :]


def _all_views(
    feed: Feed, headers: ShardHeaders, select: Select, copied: Copied
) -> Generator[list[Handed], None, tuple[int, int]]:
    """Views of as many shards as can be mapped.

    Returns:
        The shard of the first tensor without a view, and the tensor's place among the chosen ones.
    """
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
    """Views of one shard's tensors.

    Returns:
        The place of the first tensor without a view, if the shard cannot be mapped any more; None
        if all tensors have one.
    """
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
    """A tensor over the shard's own bytes, or a copy if these are not aligned for its dtype.

    Each view has its own torch storage, which ends where the tensor ends, so that saving one tensor
    does not save the whole shard.
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
    """One pass that hands out private copies, in file order."""

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
        """The memory of a span; the first span of a group makes the group's allocation."""
        if self._placed is None or span.group.spans[0] is span:
            self._placed = placed = StagedGroup(span.group, self._device)
            self._fence()
            self._ahead_bytes += placed.size_bytes
            self._pending.append((self._shard, placed))
        return Staged(self._placed, span)

    def _widen(self, groups: Sequence[StagingGroup]) -> None:
        """Set the bound of bytes ahead, once the sizes of a shard's groups are known.

        One more block's job may allocate the block's small tensors and one more group, which must
        still fit within the bound.
        """
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
        """Whether to collect before planning more, because too many bytes are ahead of the caller.

        This is never so while the tensors that are handed out next lie in blocks not planned yet.
        """
        if not self._pending or self._ahead_bytes <= self._most_ahead_bytes:
            return False
        shard, head = self._pending[0]
        return shard < self._shard or head.stop <= self._planned_bytes


def _count(completed: Iterator[Staged]) -> None:
    """Subtract each completed span's bytes from those that its group still waits for."""
    for staged in completed:
        staged.owner.left_bytes -= staged.span.stop - staged.span.start


def _no_fence() -> None:
    """Stands for the engine's fence before the pass begins; does nothing."""
