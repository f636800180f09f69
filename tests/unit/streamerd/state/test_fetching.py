"""The blocks that are fetched next, and the consequences of a fetch's end."""

from __future__ import annotations

import pytest
from tests.support.play import BLOCK, Play, key, load_key

from streamer_client.contract.layout import BlockRange
from streamerd.state import commands as c
from streamerd.state import events as e
from streamerd.state.events import FailureKind
from streamerd.state.lifecycle import InvalidTransition


def test_loads_take_turns_block_by_block() -> None:
    play = Play(40, {"a": 9, "b": 9, "c": 2}, slots=6)
    play.turn(*(play.opening(owner, owner) for owner in "abc"))
    order = [letter for letter, _ in play.fetches()]
    assert order == ["a", "b", "c", "a", "b", "c"]
    play.fetched(("a", 0))
    assert play.fetches() == [("a", 2)]


def test_a_small_model_is_not_behind_a_large_one() -> None:
    play = Play(40, {"a": 20, "s": 2}, slots=2)
    play.open("big", "a")
    play.open("small", "s")
    done = []
    for _ in range(6):
        at = next(iter(play.model.fetching))
        done.append(at[0].uri)
        play.turn(e.BlockFetched(0, *at))
    assert done.count("/s") == 2


def test_a_block_is_fetched_once_whoever_wants_it() -> None:
    play = Play(40, {"a": 4}, slots=2)
    play.turn(*(play.opening(owner, "a") for owner in "xyz"))
    assert play.fetches() == [("a", 0), ("a", 1)]
    play.fetched(("a", 0))
    assert set(play.announced()) == {"x", "y", "z"}
    assert play.fetches() == [("a", 2)]


def test_concurrency_bounds_one_load_and_no_other() -> None:
    play = Play(40, {"a": 9, "b": 9}, slots=6)
    play.turn(play.opening("x", "a", concurrency=1), play.opening("y", "b"))
    letters = [letter for letter, _ in play.fetches()]
    assert (letters.count("a"), letters.count("b")) == (1, 5)
    play.fetched(("a", 0))
    assert play.fetches() == [("a", 1)]


def test_no_more_fetches_than_slots() -> None:
    play = Play(40, {"a": 9}, slots=3)
    play.open("x", "a")
    assert len(play.fetches()) == 3
    play.fetched(("a", 0), ("a", 2))
    assert len(play.fetches()) == 2


# --- two ranks and a budget of three blocks -----------------------------------------------------


def test_two_ranks_and_three_blocks() -> None:
    """There is no room for two smallest windows, so the second rank waits, and gets its turn."""
    play = Play(3, {"a": 8})
    play.open("x", "a")
    play.open("y", "a")
    assert play.only(c.ReportWaiting).load == load_key("y")
    seen: dict[str, list[int]] = {"x": [], "y": []}
    for _ in range(40):
        play.fetch_all()
        for owner in ("x", "y"):
            if load_key(owner) in play.model.loads and play.load(owner).admitted:
                seen[owner] += [block for _, block in play.granted(owner)]
                play.consume_granted(owner)
                if not play.load(owner).wants and not play.load(owner).charge_bytes:
                    play.close(owner)
        play.tick()
    assert seen == {"x": list(range(8)), "y": list(range(8))}
    assert not play.model.loads


def test_readers_of_opposite_orders_do_not_block_each_other() -> None:
    """Each load holds the blocks that the other needs last.

    Both windows are promised, so both go on.
    """
    play = Play(4, {"a": 10})
    back = tuple(BlockRange(0, block, block + 1) for block in range(9, -1, -1))
    play.open("x", "a", memory_limit=0)
    play.open("y", "a", wants=back, memory_limit=0)
    seen: dict[str, list[int]] = {"x": [], "y": []}
    for _ in range(60):
        play.fetch_all()
        for owner in ("x", "y"):
            if play.granted(owner):
                _, block = sorted(play.granted(owner), reverse=owner == "y")[0]
                seen[owner].append(block)
                play.consume(owner, (0, block, block + 1))
        play.tick(0.1)
    assert seen["x"] == list(range(10))
    assert seen["y"] == list(range(9, -1, -1))


# --- failures -----------------------------------------------------------------------------------


def test_an_error_fails_the_shard_for_every_load_once() -> None:
    play = Play(20, {"a": 4, "b": 2})
    play.open("x", "ab")
    play.open("y", "a")
    play.fetched(("a", 0))
    play.fails("a", 1)
    failed = play.all(c.FailShard)
    assert {(one.load.owner, one.shard, one.code) for one in failed} == {
        ("x", 0, "source"),
        ("y", 0, "source"),
    }
    play.fails("a", 2)
    assert not play.all(c.FailShard)
    assert play.model.totals.errors == 1
    assert play.granted("x") == [(0, 0)]  # the block granted before the failure stays readable
    play.fetched(("a", 3), ("b", 0), ("b", 1))
    assert play.announced() == {"x": (BlockRange(1, 0, 2),)}


def test_nothing_more_is_fetched_of_a_failed_shard() -> None:
    play = Play(20, {"a": 9}, slots=1)
    play.open("x", "a")
    play.fails("a", 0)
    assert play.fetches() == []
    play.released()
    assert play.fetches() == []
    play.want("x", (0, 0, 9))
    assert play.fetches() == []
    assert not play.load("x").wants


def test_who_comes_after_a_failure_tries_again() -> None:
    play = Play(20, {"a": 2})
    play.open("x", "a")
    play.fails("a", 0)
    play.open("y", "a")
    play.released()
    assert play.fetches() == [("a", 0)]
    play.fetch_all()
    assert play.granted("y") == [(0, 0), (0, 1)]
    assert play.granted("x") == []


def test_a_failed_shard_goes_with_its_last_load() -> None:
    play = Play(20, {"a": 3})
    play.open("x", "a")
    play.fetched(("a", 0))
    play.fails("a", 1)
    play.released()
    play.close("x")
    assert play.releases() == [("a", 0, 1)]
    assert not play.all(c.RemoveSlab)
    play.released()
    play.fetched(("a", 2))
    assert play.releases() == [("a", 2, 3)]
    play.released()
    assert play.only(c.RemoveSlab).shard == key("a")
    assert play.used == 0


def test_a_lost_worker_is_tried_again_twice() -> None:
    play = Play(20, {"a": 2})
    play.open("x", "a")
    for attempt in range(1, 4):
        play.fails("a", 0, FailureKind.WORKER_LOST)
        failed = play.all(c.FailShard)
        assert len(failed) == (attempt == 3)
        # The block's memory, which may be partly written, is given back before the next attempt.
        assert play.releases() == [("a", 0, 1)]
        assert play.fetches() == []
        play.released()
        assert play.fetches() == ([("a", 0)] if attempt < 3 else [])
    assert "3 fetch workers died reading block 0" in failed[0].message
    assert play.model.totals.retries == 3


def test_a_block_that_came_forgets_the_workers_it_cost() -> None:
    play = Play(20, {"a": 2})
    play.open("x", "a")
    for _ in range(2):
        play.fails("a", 0, FailureKind.WORKER_LOST)
        play.released()
    play.fetched(("a", 0))
    assert play.shard("a").attempts == {}


def test_no_space_squeezes_until_the_next_tick() -> None:
    play = Play(20, {"a": 4}, slots=4)
    play.open("x", "a")
    play.fetched(("a", 0), ("a", 1))
    play.fails("a", 2, FailureKind.NO_SPACE)
    # Blocks 0 and 1 are resident, and block 3 is still on its way.
    assert play.model.ledger.squeezed_to_bytes == 3 * BLOCK
    assert play.fetches() == []
    play.fails("a", 3, FailureKind.NO_SPACE)
    assert play.fetches() == []
    assert play.used == 2
    play.tick()
    assert sorted(play.fetches()) == [("a", 2), ("a", 3)]
    play.fetch_all()
    assert len(play.granted("x")) == 4


def test_no_space_takes_what_nobody_uses() -> None:
    play = Play(20, {"a": 3, "b": 3})
    play.open("old", "a")
    play.fetch_all()
    play.close("old")
    play.open("x", "b")
    play.fails("b", 0, FailureKind.NO_SPACE)
    assert play.releases()
    assert {letter for letter, _, _ in play.releases()} == {"a"}
    play.released()
    assert play.fetches() == [("b", 0)]


def test_no_space_for_too_long_fails_with_the_memory_limit() -> None:
    play = Play(20, {"a": 1})
    play.open("x", "a")
    for _ in range(30):
        play.fails("a", 0, FailureKind.NO_SPACE)
        assert not play.all(c.FailShard)
        play.tick()
    play.fails("a", 0, FailureKind.NO_SPACE)
    assert play.only(c.FailShard).code == "memory-limit"
    assert play.used == 0


def test_room_that_came_between_begins_the_wait_anew() -> None:
    play = Play(20, {"a": 2}, slots=1)
    play.open("x", "a")
    play.fails("a", 0, FailureKind.NO_SPACE)
    play.tick(29)
    play.fetched(("a", 0))
    play.fails("a", 1, FailureKind.NO_SPACE)
    play.tick(29)
    play.fails("a", 1, FailureKind.NO_SPACE)
    assert not play.all(c.FailShard)


def test_wants_that_change_while_a_fetch_fails() -> None:
    play = Play(20, {"a": 6}, slots=2)
    play.open("x", "a")
    play.want("x", (0, 4, 6))
    play.fails("a", 0, FailureKind.WORKER_LOST)
    assert play.fetches() == [("a", 4)]
    play.released()
    play.fails("a", 1, FailureKind.NO_SPACE)
    assert ("a", 1) not in play.fetches()
    play.tick()
    play.fetch_all()
    assert play.granted("x") == [(0, 4), (0, 5)]


def test_a_block_claimed_while_it_is_being_released_is_fetched_after() -> None:
    play = Play(20, {"a": 2})
    play.open("x", "a")
    play.fetch_all()
    play.close("x")
    play.turn(e.EvictRequested(0, (key("a"),)))
    play.open("y", "a", hold=True)
    assert play.fetches() == []
    play.released()
    assert sorted(play.fetches()) == [("a", 0), ("a", 1)]
    assert not play.all(c.RemoveSlab)


def test_an_answer_that_nobody_asked_for_is_a_defect() -> None:
    play = Play(20, {"a": 2}, slots=1)
    play.open("x", "a")
    with pytest.raises((InvalidTransition, KeyError)):
        play.fetched(("a", 1))
