"""Ranges of blocks, and the plan of a copy compared with a byte-by-byte copy of a made-up shard."""

from __future__ import annotations

import pytest

from streamer_client.contract.layout import BlockRange, merged
from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.plan import (
    BlockJob,
    block_jobs,
    blocks,
    count,
    data_order,
    in_order,
    whole,
)

BLOCK = 10
DATA_START = 7


def entries(sizes: list[int]) -> list[TensorEntry]:
    found, at = [], DATA_START
    for place, size in enumerate(sizes):
        found.append(TensorEntry(str(place), "U8", (size,), at, at + size))
        at += size
    return found


def planned(chosen: list[TensorEntry]) -> list[BlockJob[bytearray]]:
    return list(block_jobs(3, chosen, BLOCK, lambda entry: bytearray(entry.stop - entry.start)))


@pytest.mark.parametrize("skip", [0, 2, 3])
@pytest.mark.parametrize("sizes", [[1], [3, 10, 27, 1, 0, 4], [0], [13, 7, 10, 10, 0], [2] * 30])
def test_every_byte_arrives_once(sizes: list[int], skip: int) -> None:
    chosen = [entry for place, entry in enumerate(entries(sizes)) if not skip or place % skip]
    file = bytes(range(DATA_START + sum(sizes)))
    placed: dict[str, bytearray] = {}

    def place(entry: TensorEntry) -> bytearray:
        assert entry.name not in placed
        placed[entry.name] = bytearray(entry.stop - entry.start)
        return placed[entry.name]

    for job in block_jobs(3, chosen, BLOCK, place):
        for run in job.runs:
            assert job.block * BLOCK <= run.start < run.stop <= (job.block + 1) * BLOCK
            at = run.start
            for destination, start, stop in run.pieces:
                destination[start:stop] = file[at : at + stop - start]
                at += stop - start
            assert at == run.stop
    assert list(placed) == [entry.name for entry in chosen]
    for entry in chosen:
        assert placed[entry.name] == file[entry.start : entry.stop]


@pytest.mark.parametrize("sizes", [[3, 10, 27, 1, 0, 4], [2] * 30, [0, 0], [35]])
def test_the_order_names_the_same_blocks_as_the_jobs(sizes: list[int]) -> None:
    chosen = entries(sizes)[::2]
    ordered = [
        block for _, start, stop in data_order(3, chosen, BLOCK) for block in range(start, stop)
    ]
    assert ordered == [job.block for job in planned(chosen)]


def test_neighbours_share_a_run_and_gaps_split_it() -> None:
    one, two, three = entries([1, 1, 1])
    (job,) = planned([one, two, three])
    assert [(run.start, len(run.pieces)) for run in job.runs] == [(7, 3)]
    (job,) = planned([one, three])
    assert [(run.start, len(run.pieces)) for run in job.runs] == [(7, 1), (9, 1)]


def test_merged_joins_neighbours_and_overlaps_in_any_order() -> None:
    ranges = [BlockRange(1, 4, 5), BlockRange(0, 2, 3), BlockRange(1, 2, 4), BlockRange(1, 3, 5)]
    assert merged(ranges) == (BlockRange(0, 2, 3), BlockRange(1, 2, 5))


def test_merged_drops_empty_ranges_and_keeps_gaps() -> None:
    ranges = [BlockRange(0, 5, 6), BlockRange(0, 1, 1), BlockRange(0, 0, 4)]
    assert merged(ranges) == (BlockRange(0, 0, 4), BlockRange(0, 5, 6))


def test_in_order_keeps_the_order() -> None:
    pairs = [(0, 3), (0, 4), (0, 1), (1, 2), (1, 3)]
    ranges = in_order(pairs)
    assert ranges == (BlockRange(0, 3, 5), BlockRange(0, 1, 2), BlockRange(1, 2, 4))
    assert list(blocks(ranges)) == pairs


def test_whole_leaves_empty_shards_out() -> None:
    assert whole([10, 0, 11], 10) == (BlockRange(0, 0, 1), BlockRange(2, 0, 2))


def test_count_adds_the_ranges_up() -> None:
    assert count([BlockRange(0, 3, 5), BlockRange(2, 0, 1), BlockRange(1, 4, 4)]) == 3
