"""Geometry of a slab: a byte-for-byte image of one shard, cut into blocks of one fixed size.

Owns the arithmetic between bytes and blocks. All ranges are half-open.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PAGE_BYTES: Final = 4096
DEFAULT_BLOCK_BYTES: Final = 8 << 20
MIN_BLOCK_BYTES: Final = 64 << 10
WINDOW_BLOCKS: Final = 2
"""Blocks in the smallest window: one being copied while the next is being read."""


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
    """Bytes of shared memory that a shard's image takes: whole pages."""
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def blocks_bytes(start: int, stop: int, size_bytes: int, block_bytes: int) -> int:
    """Bytes of shared memory that blocks `start` to `stop` take: whole pages."""
    if start >= stop:
        return 0
    return min(stop * block_bytes, slab_bytes(size_bytes)) - start * block_bytes


def blocks_of_bytes(start: int, stop: int, block_bytes: int) -> tuple[int, int]:
    """Blocks `(first, past)` that hold bytes `start` to `stop`; empty for an empty range."""
    if start >= stop:
        return (start // block_bytes, start // block_bytes)
    return (start // block_bytes, -(-stop // block_bytes))
