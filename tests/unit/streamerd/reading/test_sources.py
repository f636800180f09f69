"""The descriptors that a shard is read through: one pair for each user, closed when nobody needs
it.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streamer_client.storage.contract import StoredShard
from streamerd.reading.sources import MOST_PAIRS, Pair, Sources
from streamerd.state.events import ShardKey
from streamerd.workers.in_daemon.lending import Lending

KEY = ShardKey("file:8:1", "100:1#0")


class Made:
    """Makes pairs, and notes the descriptors that were given up."""

    def __init__(self) -> None:
        self.lending = Lending()
        self.given_up: list[int] = []
        self.sources = Sources()
        self._next = 100

    def pair(self, uid: int = 1000, count: int = 2) -> Pair:
        descriptors = tuple(range(self._next, self._next + count))
        self._next += count
        stored = StoredShard("/m/a", 100, "file:8:1:100:1")
        return Pair(self.lending, self._discard, stored, 1, uid, descriptors)

    def _discard(self, descriptors: Sequence[int]) -> None:
        self.given_up += descriptors


@pytest.fixture
def made() -> Made:
    return Made()


def test_a_pair_goes_with_the_last_who_needs_it(made: Made) -> None:
    pair = made.pair()
    made.sources.offer(KEY, pair)
    pair.retain()
    pair.release()
    pair.release()  # the transfer needs the pair no more
    assert made.given_up == []
    made.sources.close(KEY)
    assert made.given_up == [100, 101]
    made.sources.close(KEY)
    assert made.given_up == [100, 101]


def test_workers_give_it_back_too(made: Made) -> None:
    pair = made.pair()
    assert pair.handle == pair.handle
    assert len(made.lending) == 1
    pair.release()
    assert len(made.lending) == 0
    assert made.given_up == [100, 101]


def test_a_pair_that_nobody_reads_through_is_lent_to_nobody(made: Made) -> None:
    pair = made.pair()
    assert pair.plain == 100
    pair.release()
    assert len(made.lending) == 0
    assert made.given_up == [100, 101]


def test_a_second_pair_of_one_user_is_not_kept(made: Made) -> None:
    first, second = made.pair(), made.pair()
    assert made.sources.offer(KEY, first) is first
    assert made.sources.offer(KEY, second) is first
    first.release()
    second.release()
    assert made.given_up == [102, 103]
    made.sources.close(KEY)
    assert made.given_up == [102, 103, 100, 101]


def test_one_of_each_user_is_kept_as_far_as_there_is_room(made: Made) -> None:
    pairs = [made.pair(uid) for uid in range(MOST_PAIRS + 1)]
    for pair in pairs:
        assert made.sources.offer(KEY, pair) is pair
        pair.release()
    assert made.given_up == [100 + 2 * MOST_PAIRS, 101 + 2 * MOST_PAIRS]
    made.sources.close_all()
    assert len(made.given_up) == 2 * (MOST_PAIRS + 1)


def test_what_failed_is_passed_over_while_another_is_left(made: Made) -> None:
    mine, theirs = made.pair(1), made.pair(2)
    for pair in (mine, theirs):
        made.sources.offer(KEY, pair)
    assert made.sources.reading(KEY) is mine
    assert made.sources.refuse(KEY, mine.handle)
    assert made.sources.reading(KEY) is theirs
    assert not made.sources.refuse(KEY, theirs.handle)
    assert made.sources.reading(KEY) is None


def test_who_brings_another_after_a_failure_is_tried_anew(made: Made) -> None:
    failed, fresh = made.pair(), made.pair()
    made.sources.offer(KEY, failed)
    failed.release()
    made.sources.refuse(KEY, failed.handle)
    assert made.sources.offer(KEY, fresh) is fresh
    assert made.given_up == [100, 101]
    assert made.sources.reading(KEY) is fresh


def test_a_failure_of_what_was_given_up_meanwhile_blames_nobody(made: Made) -> None:
    pair = made.pair()
    made.sources.offer(KEY, pair)
    assert made.sources.refuse(KEY, pair.handle + 1)
    assert made.sources.reading(KEY) is pair


def test_a_shard_that_nobody_brought_anything_for(made: Made) -> None:
    assert made.sources.reading(KEY) is None
    made.sources.close(KEY)
