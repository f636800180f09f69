"""The plan of a copy: which bytes of each block go where. Pure arithmetic over byte ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from streamer_client.contract.layout import BlockRange, blocks_of_bytes

D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)


class Span(Protocol):
    """Bytes `start` to `stop` of a shard that go to one place, such as a tensor's."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...


S = TypeVar("S", bound=Span)


class Piece(NamedTuple, Generic[D_co]):
    """Bytes `start` to `stop` of a destination, counted from its own beginning."""

    destination: D_co
    start: int
    stop: int


class Run(Generic[D_co]):
    """Bytes `start` to `stop` of a shard, which fill these pieces one after the other."""

    __slots__ = ("pieces", "start", "stop")

    def __init__(self, start: int) -> None:
        self.start = self.stop = start
        self.pieces: list[Piece[D_co]] = []


class BlockJob(NamedTuple, Generic[D_co]):
    """What to copy out of one block; the block is consumed by it."""

    shard: int
    block: int
    runs: list[Run[D_co]]


def data_order(shard: int, spans: Sequence[Span], block_bytes: int) -> Iterator[BlockRange]:
    """The blocks that hold bytes of these spans (in file order), each once, in order."""
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
    """Jobs for spans of one shard, by ascending block; `data_order` names the same blocks.

    Args:
        shard: its number.
        spans: tensors, or other ranges, in file order.
        block_bytes: the feed's block size.
        place: asked once for each span, in file order, when its first block is planned; also for
            empty ones, of which there is nothing to copy.
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
    """Add the part of a span that lies in the job's block, to the last run if that goes on."""
    start = max(span.start, job.block * block_bytes)
    stop = min(span.stop, (job.block + 1) * block_bytes)
    piece = Piece(destination, start - span.start, stop - span.start)
    if not job.runs or job.runs[-1].stop != start:
        job.runs.append(Run(start))
    job.runs[-1].pieces.append(piece)
    job.runs[-1].stop = stop
