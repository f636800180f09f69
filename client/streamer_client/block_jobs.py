"""The plan of a copy: which bytes of each block go where. Pure arithmetic over byte ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from streamer_client.contract.catalog import TensorEntry
from streamer_client.contract.layout import BlockRange, blocks_of_bytes

D = TypeVar("D")


class Piece(NamedTuple, Generic[D]):
    """Bytes `start` to `stop` of a destination, counted from its own beginning."""

    destination: D
    start: int
    stop: int


class Run(Generic[D]):
    """Bytes `start` to `stop` of a shard, which fill these pieces one after the other."""

    __slots__ = ("pieces", "start", "stop")

    def __init__(self, start: int) -> None:
        self.start = self.stop = start
        self.pieces: list[Piece[D]] = []


class BlockJob(NamedTuple, Generic[D]):
    """What to copy out of one block; the block is consumed by it."""

    shard: int
    block: int
    runs: list[Run[D]]


def data_order(
    shard: int, entries: Sequence[TensorEntry], block_bytes: int
) -> Iterator[BlockRange]:
    """The blocks that hold bytes of these entries (in file order), each once, in order."""
    past = 0
    for entry in entries:
        start, stop = blocks_of_bytes(entry.start, entry.stop, block_bytes)
        start = max(start, past)
        if start < stop:
            yield BlockRange(shard, start, stop)
            past = stop


def block_jobs(
    shard: int,
    entries: Sequence[TensorEntry],
    block_bytes: int,
    place: Callable[[TensorEntry], D],
) -> Iterator[BlockJob[D]]:
    """Jobs for tensors of one shard, by ascending block; `data_order` names the same blocks.

    Args:
        shard: its number.
        entries: the tensors, in file order.
        block_bytes: the feed's block size.
        place: asked once for each tensor, in file order, when its first block is planned; also for
            empty ones, of which there is nothing to copy.
    """
    job: BlockJob[D] | None = None
    for entry in entries:
        destination = place(entry)
        for block in range(*blocks_of_bytes(entry.start, entry.stop, block_bytes)):
            if job is None or job.block != block:
                if job is not None:
                    yield job
                job = BlockJob(shard, block, [])
            _add(job, entry, destination, block_bytes)
    if job is not None:
        yield job


def _add(job: BlockJob[D], entry: TensorEntry, destination: D, block_bytes: int) -> None:
    """Add the part of a tensor that lies in the job's block, to the last run if that goes on."""
    start = max(entry.start, job.block * block_bytes)
    stop = min(entry.stop, (job.block + 1) * block_bytes)
    piece = Piece(destination, start - entry.start, stop - entry.start)
    if not job.runs or job.runs[-1].stop != start:
        job.runs.append(Run(start))
    job.runs[-1].pieces.append(piece)
    job.runs[-1].stop = stop
