"""A block is cut into cached runs and others; the tests give the kernel's answers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from streamer_client.storage.page_cache import SEGMENT_BYTES, CachedRun, PageCache

PAGE = os.sysconf("SC_PAGESIZE")
BLOCK = 8 * SEGMENT_BYTES


class Answers(PageCache):
    """A page cache that holds these byte ranges, in whole pages."""

    def __init__(self, *held: tuple[int, int], nowait: bool = True, countable: bool = True) -> None:
        self.held = held
        self.nowait = nowait
        self.countable = countable
        self.questions = 0

    def _cached_pages(self, start: int, stop: int) -> int | None:
        self.questions += 1
        return sum(1 for page in self._touched(start, stop)) if self.countable else None

    def _touched(self, start: int, stop: int) -> Iterator[int]:
        for page in range(start - start % PAGE, stop, PAGE):
            if any(left <= page < right for left, right in self.held):
                yield page

    def _answers(self, position: int) -> bool:
        return bool(list(self._touched(position, position + 1)))


@pytest.mark.parametrize(("start", "stop"), [(0, BLOCK), (1, 2), (PAGE - 1, PAGE + 1), (7, BLOCK)])
@pytest.mark.parametrize("cached", [True, False])
def test_a_block_of_one_kind_is_one_run_and_one_question(
    start: int, stop: int, cached: bool
) -> None:
    cache = Answers((0, BLOCK)) if cached else Answers()
    assert cache.runs(start, stop) == [CachedRun(start, stop, cached)]
    assert cache.questions == 1


def test_a_mixed_block_is_cut_at_segments_and_neighbours_are_joined() -> None:
    cache = Answers((SEGMENT_BYTES, 3 * SEGMENT_BYTES), (5 * SEGMENT_BYTES, BLOCK))
    assert cache.runs(100, BLOCK - 5) == [
        CachedRun(100, SEGMENT_BYTES, False),
        CachedRun(SEGMENT_BYTES, 3 * SEGMENT_BYTES, True),
        CachedRun(3 * SEGMENT_BYTES, 5 * SEGMENT_BYTES, False),
        CachedRun(5 * SEGMENT_BYTES, BLOCK - 5, True),
    ]


def test_a_segment_that_lacks_a_page_counts_as_not_cached() -> None:
    cache = Answers((0, SEGMENT_BYTES - PAGE))
    assert cache.runs(0, SEGMENT_BYTES) == [CachedRun(0, SEGMENT_BYTES, False)]


def test_without_nowait_only_presence_is_believed() -> None:
    assert Answers((0, BLOCK), nowait=False).runs(0, BLOCK) == [CachedRun(0, BLOCK, True)]
    assert Answers(nowait=False).runs(0, BLOCK) == [CachedRun(0, BLOCK, None)]
    assert Answers((0, PAGE), nowait=False).runs(0, BLOCK) == [CachedRun(0, BLOCK, None)]


def test_without_counting_one_page_is_tried() -> None:
    assert Answers((0, BLOCK), countable=False).runs(0, BLOCK) == [CachedRun(0, BLOCK, True)]
    assert Answers(countable=False).runs(0, BLOCK) == [CachedRun(0, BLOCK, False)]
    assert Answers(countable=False, nowait=False).runs(0, BLOCK) == [CachedRun(0, BLOCK, None)]
