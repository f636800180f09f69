"""The blocks that a pass reads, and where the bytes of each block go. Pure arithmetic.

The first half counts, lists and joins ranges of blocks. The second half plans the copying: it takes
a shard's tensors and makes one job for each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from streamer_client.contract.layout import BlockRange, block_count, blocks_of_bytes

D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)

# --- ranges of blocks ----------------------------------------------------------------------------


def whole(sizes_bytes: Sequence[int], block_bytes: int) -> tuple[BlockRange, ...]:
    """All blocks of shards of these sizes, in file order."""
    return tuple(
        BlockRange(shard, 0, block_count(size, block_bytes))
        for shard, size in enumerate(sizes_bytes)
        if size
    )


def blocks(ranges: Iterable[BlockRange]) -> Iterator[tuple[int, int]]:
    """Each `(shard, block)`, in the order of the ranges."""
    for shard, start, stop in ranges:
        for block in range(start, stop):
            yield shard, block


def in_order(pairs: Iterable[tuple[int, int]]) -> tuple[BlockRange, ...]:
    """Ranges for `(shard, block)` pairs, in the order of the pairs; neighbours are joined."""
    out: list[BlockRange] = []
    for shard, block in pairs:
        last = out[-1] if out else None
        if last is not None and last.shard == shard and last.stop == block:
            out[-1] = BlockRange(shard, last.start, block + 1)
        else:
            out.append(BlockRange(shard, block, block + 1))
    return tuple(out)


def count(ranges: Iterable[BlockRange]) -> int:
    """How many blocks there are in ranges that do not overlap."""
    return sum(stop - start for _, start, stop in ranges)


# --- the plan of a copy --------------------------------------------------------------------------


class Span(Protocol):
    """Bytes `start` to `stop` of a shard that go to one destination, such as a tensor."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


S = TypeVar("S", bound=Span)


class Piece(NamedTuple, Generic[D_co]):
    """Bytes `start` to `stop` of a destination, counted from the destination's first byte."""

    destination: D_co
    start: int
    stop: int


class CopyRun(Generic[D_co]):
    """Bytes `start` to `stop` of a shard, without a gap, which fill the pieces in turn."""

    __slots__ = ("pieces", "start", "stop")

    def __init__(self, start: int) -> None:
        self.start = self.stop = start
        self.pieces: list[Piece[D_co]] = []


class BlockJob(NamedTuple, Generic[D_co]):
    """Everything to copy from one block; after the job, the block is consumed."""

    shard: int
    block: int
    runs: list[CopyRun[D_co]]


def data_order(shard: int, spans: Sequence[Span], block_bytes: int) -> Iterator[BlockRange]:
    """The blocks that hold bytes of these spans (in file order), each block once, ascending."""
    past = 0
    for span in spans:
        start, stop = blocks_of_bytes(span.start, span.stop, block_bytes)
        start = max(start, past)
        if start < stop:
            yield BlockRange(shard, start, stop)
            past = stop


def block_jobs(
    shard: int,
    spans: Iterable[S],
    block_bytes: int,
    place: Callable[[S], D],
) -> Iterator[BlockJob[D]]:
    """One job for each block that `data_order` names for the same spans, ascending.

    Args:
        shard: number of the shard.
        spans: tensors, or other ranges, in file order.
        block_bytes: the feed's block size.
        place: returns a span's destination. Called once for each span, in file order, when its
            first block is planned; also for empty spans, which no job copies.
    """
    job: BlockJob[D] | None = None
    for span in spans:
        destination = place(span)
        for block in range(*blocks_of_bytes(span.start, span.stop, block_bytes)):
            if job is None or job.block != block:
                if job is not None:
                    yield job
                job = BlockJob(shard, block, [])
            _add(job, span, destination, block_bytes)
    if job is not None:
        yield job


def _add(job: BlockJob[D], span: Span, destination: D, block_bytes: int) -> None:
    """Add the part of a span that lies in the job's block: to the last run if it continues that."""
    start = max(span.start, job.block * block_bytes)
    stop = min(span.stop, (job.block + 1) * block_bytes)
    piece = Piece(destination, start - span.start, stop - span.start)
    if not job.runs or job.runs[-1].stop != start:
        job.runs.append(CopyRun(start))
    job.runs[-1].pieces.append(piece)
    job.runs[-1].stop = stop
