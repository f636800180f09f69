from __future__ import annotations

from streamer_client.contract.layout import BlockRange, merged
from streamer_client.copy.block_ranges import blocks, in_order, whole


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
