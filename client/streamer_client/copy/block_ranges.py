"""Arithmetic on lists of block ranges: what the client wants, has and gives back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from streamer_client.contract.layout import BlockRange, block_count


def whole(sizes_bytes: Sequence[int], block_bytes: int) -> tuple[BlockRange, ...]:
    """All blocks of all shards, in file order."""
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
    """Ranges for `(shard, block)` pairs that keep the order of the pairs."""
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
