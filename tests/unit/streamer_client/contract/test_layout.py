"""The arithmetic between bytes, blocks and pages."""

from __future__ import annotations

from itertools import pairwise

import pytest

from streamer_client.contract.layout import (
    PAGE_BYTES,
    block_count,
    block_span,
    blocks_bytes,
    blocks_of_bytes,
    slab_bytes,
)

BLOCK = 64 << 10


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 0), (1, 1), (BLOCK - 1, 1), (BLOCK, 1), (BLOCK + 1, 2), (10 * BLOCK, 10)],
)
def test_block_count(size: int, count: int) -> None:
    assert block_count(size, BLOCK) == count


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_blocks_cover_the_shard_without_gap(size: int) -> None:
    spans = [block_span(block, size, BLOCK) for block in range(block_count(size, BLOCK))]
    assert spans[0][0] == 0
    assert spans[-1][1] == size
    assert all(left[1] == right[0] for left, right in pairwise(spans))
    assert all(start < stop for start, stop in spans)


@pytest.mark.parametrize(
    ("size", "pages"), [(0, 0), (1, 1), (PAGE_BYTES, 1), (PAGE_BYTES + 1, 2), (BLOCK, 16)]
)
def test_slab_is_whole_pages(size: int, pages: int) -> None:
    assert slab_bytes(size) == pages * PAGE_BYTES


@pytest.mark.parametrize("size", [1, PAGE_BYTES, BLOCK, BLOCK + 1, 3 * BLOCK - 5000, 4 * BLOCK])
def test_blocks_add_up_to_the_slab(size: int) -> None:
    count = block_count(size, BLOCK)
    each = [blocks_bytes(block, block + 1, size, BLOCK) for block in range(count)]
    assert sum(each) == blocks_bytes(0, count, size, BLOCK) == slab_bytes(size)
    assert all(part > 0 for part in each)
    assert blocks_bytes(count, count, size, BLOCK) == 0


@pytest.mark.parametrize(
    ("start", "stop", "blocks"),
    [
        (0, 1, (0, 1)),
        (0, BLOCK, (0, 1)),
        (0, BLOCK + 1, (0, 2)),
        (BLOCK - 1, BLOCK + 1, (0, 2)),
        (BLOCK, 2 * BLOCK, (1, 2)),
        (5, 5, (0, 0)),
        (BLOCK, BLOCK, (1, 1)),
    ],
)
def test_blocks_of_bytes(start: int, stop: int, blocks: tuple[int, int]) -> None:
    assert blocks_of_bytes(start, stop, BLOCK) == blocks
