"""Bytes and blocks of one shard."""

from __future__ import annotations

import pytest

from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.state.shard import Shard

BLOCK = 64 << 10


def shard(size_bytes: int, *resident: int) -> Shard:
    made = Shard(ShardKey("/a", "1"), size_bytes, BLOCK)
    for block in resident:
        made.states[block] = BlockState.RESIDENT
    return made


@pytest.mark.parametrize(
    ("size_bytes", "blocks", "slab_bytes"),
    [
        (0, 0, 0),
        (1, 1, 4096),
        (BLOCK, 1, BLOCK),
        (BLOCK + 1, 2, BLOCK + 4096),
        (3 * BLOCK - 1, 3, 3 * BLOCK),
    ],
)
def test_geometry(size_bytes: int, blocks: int, slab_bytes: int) -> None:
    made = shard(size_bytes)
    assert (made.blocks, made.slab_bytes, made.bytes_of(0, blocks)) == (
        blocks,
        slab_bytes,
        slab_bytes,
    )


def test_resident_bytes_of_a_range_with_a_short_last_block() -> None:
    made = shard(2 * BLOCK + 5000, 0, 2)
    assert made.resident_in(0, 3) == BLOCK + 8192
    assert made.resident_in(0, 2) == BLOCK
    assert made.resident_in(1, 2) == 0
    assert made.resident_in(2, 3) == 8192


def test_what_may_be_taken_away() -> None:
    made = shard(3 * BLOCK, 0, 1)
    made.claims[1] = 1
    assert [made.releasable(block) for block in range(3)] == [True, False, False]
    made.pinned = True
    assert not made.releasable(0)
    made.pinned, made.holders = False, 1
    assert not made.releasable(0)


@pytest.mark.parametrize(
    ("before", "start", "stop", "by", "after"),
    [
        ([0, 0, 0, 0], 1, 3, 1, [0, 1, 1, 0]),
        ([3, 1, 2, 1], 0, 3, -1, [2, 0, 1, 1]),
        ([1, 1, 1, 2], 0, 4, 1, [2, 2, 2, 3]),
        ([5, 7, 7, 5], 2, 3, -1, [5, 7, 6, 5]),
    ],
)
def test_claims_are_counted_block_by_block(
    before: list[int], start: int, stop: int, by: int, after: list[int]
) -> None:
    made = shard(4 * BLOCK)
    made.claims = list(before)
    assert made.change_claims(start, stop, by) == after[start:stop]
    assert made.claims == after


def test_empty_is_without_memory_and_without_interest() -> None:
    made = shard(BLOCK)
    assert made.empty
    made.states[0] = BlockState.RELEASING
    assert not made.empty
    made.states[0] = BlockState.ABSENT
    made.loads[LoadKey("x", 1)] = 0
    assert not made.empty
