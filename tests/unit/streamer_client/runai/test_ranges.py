"""Overlapping ranges go to passes of their own. A range beyond its file is refused if
it has bytes.
"""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import SourceError
from streamer_client.copy.feed import FeedShard
from streamer_client.runai.ranges import Range, _layers, byte_range, check_ranges


def layers(*ranges: tuple[int, int, int]) -> list[list[int]]:
    return _layers([byte_range(shard, start, size) for shard, start, size in ranges])


def test_ranges_apart_are_one_pass_in_file_order() -> None:
    assert layers((1, 0, 4), (0, 8, 2), (0, 0, 8), (1, 4, 1)) == [[2, 1, 0, 3]]


def test_overlapping_ranges_are_read_one_pass_after_the_other() -> None:
    assert layers((0, 0, 8), (0, 4, 8), (0, 7, 2), (0, 12, 1), (0, 8, 1)) == [[0, 4, 3], [1], [2]]


def test_equal_ranges_do_overlap() -> None:
    assert layers((0, 3, 5), (0, 3, 5)) == [[0], [1]]


def test_empty_ranges_stand_anywhere() -> None:
    assert layers((0, 4, 0), (0, 0, 4), (0, 4, 0), (0, 4, 4)) == [[1, 0, 2, 3]]


@pytest.mark.parametrize(("start", "size"), [(8, 3), (11, 1)])
def test_a_range_beyond_its_file_is_refused(start: int, size: int) -> None:
    shards = [FeedShard("/m/a", 10)]
    check_ranges(shards, [Range(0, 0, 10, "U8", (1, 10)), byte_range(0, 11, 0)])
    with pytest.raises(SourceError, match=f"/m/a: bytes {start} to {start + size} .* it has 10"):
        check_ranges(shards, [byte_range(0, start, size)])
