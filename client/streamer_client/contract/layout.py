"""Geometry of a slab: a byte-for-byte image of one shard, cut into blocks of one fixed size.

Owns the arithmetic between bytes and blocks. All ranges are half-open.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final, NamedTuple

PAGE_BYTES: Final = 4096
DEFAULT_BLOCK_BYTES: Final = 8 << 20
MIN_BLOCK_BYTES: Final = 64 << 10
SAMPLES: Final = 16
"""How many pages of a file are compared with its slab. Two checkpoints of the same sizes may share
headers and embeddings. If two files agree in sixteen pages spread over a gigabyte, and differ
elsewhere, somebody made them so on purpose."""
WINDOW_BLOCKS: Final = 2
"""How many blocks the smallest window has: one is copied while the next is read."""


class BlockRange(NamedTuple):
    """Blocks `start` to `stop` (half-open) of shard number `shard` of one load."""

    shard: int
    start: int
    stop: int


def block_count(size_bytes: int, block_bytes: int) -> int:
    """Number of blocks of a shard of `size_bytes`; 0 for an empty one."""
    return -(-size_bytes // block_bytes)


def block_span(block: int, size_bytes: int, block_bytes: int) -> tuple[int, int]:
    """Byte range `(start, stop)` of one block; the last one ends with the shard."""
    start = block * block_bytes
    return start, min(start + block_bytes, size_bytes)


def slab_bytes(size_bytes: int) -> int:
    """Bytes of shared memory that a shard's image takes: its size in whole pages."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def blocks_bytes(start: int, stop: int, size_bytes: int, block_bytes: int) -> int:
    """Bytes of shared memory that blocks `start` to `stop` take, in whole pages."""
    if start >= stop:
        return 0
    return min(stop * block_bytes, slab_bytes(size_bytes)) - start * block_bytes


def blocks_of_bytes(start: int, stop: int, block_bytes: int) -> tuple[int, int]:
    """Blocks `(first, past)` that hold bytes `start` to `stop`; empty for an empty range."""
    if start >= stop:
        return (start // block_bytes, start // block_bytes)
    return (start // block_bytes, -(-stop // block_bytes))


def merged(ranges: Iterable[BlockRange]) -> tuple[BlockRange, ...]:
    """The same blocks in as few ranges as possible, sorted, without overlaps."""
    out: list[BlockRange] = []
    for item in sorted(ranges):
        if item.start >= item.stop:
            continue
        last = out[-1] if out else None
        if last is not None and last.shard == item.shard and item.start <= last.stop:
            out[-1] = BlockRange(last.shard, last.start, max(last.stop, item.stop))
        else:
            out.append(item)
    return tuple(out)


@functools.lru_cache(maxsize=1024)
def sample_starts(size_bytes: int) -> tuple[int, ...]:
    """Offsets of the pages to compare, spread evenly from the first page to the last."""
    pages = -(-size_bytes // PAGE_BYTES)
    count = min(SAMPLES, pages)
    if count < 2:
        return tuple(range(count))
    return tuple((pages - 1) * number // (count - 1) * PAGE_BYTES for number in range(count))
