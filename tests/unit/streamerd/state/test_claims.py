"""The way of blocks through a load: claimed, granted, consumed."""

from __future__ import annotations

import random

import pytest
from tests.support.play import BLOCK, Play, load_key

from streamer_client.contract.layout import BlockRange
from streamerd.state import commands as c
from streamerd.state import events as e


def test_grants_of_one_turn_are_one_message() -> None:
    play = Play(20, {"a": 4, "b": 2})
    play.open("x", "ab")
    play.fetched(("a", 0), ("a", 1), ("b", 0), ("a", 3))
    assert sorted(play.only(c.Announce).ranges) == [
        BlockRange(0, 0, 2),
        BlockRange(0, 3, 4),
        BlockRange(1, 0, 1),
    ]


def test_a_window_moves_as_blocks_are_consumed() -> None:
    play = Play(20, {"a": 10})
    play.open("x", "a", memory_limit=0)
    assert play.fetches() == [("a", 0), ("a", 1)]
    play.fetched(("a", 0), ("a", 1))
    assert play.fetches() == []
    play.consume("x", (0, 0, 1))
    assert play.fetches() == [("a", 2)]


def test_consuming_twice_or_what_was_not_granted_changes_nothing() -> None:
    play = Play(20, {"a": 10})
    play.open("x", "a", memory_limit=0)
    play.fetched(("a", 0))
    play.consume("x", (0, 0, 10))
    play.consume("x", (0, 0, 10))
    assert play.load("x").charge_bytes == 2 * BLOCK
    assert play.load("x").consumed_bytes[0] == 10 * BLOCK


def test_consumed_blocks_may_be_wanted_again() -> None:
    play = Play(20, {"a": 3})
    play.open("x", "a")
    play.fetch_all()
    play.consume_granted("x")
    play.want("x", (0, 1, 3))
    assert play.announced() == {"x": (BlockRange(0, 1, 3),)}
    assert play.fetches() == []


def test_new_wants_replace_what_was_not_granted() -> None:
    play = Play(20, {"a": 10})
    play.open("x", "a", memory_limit=0)
    play.fetched(("a", 0))
    play.want("x", (0, 9, 10), (0, 5, 6))
    assert play.granted("x") == [(0, 0)]
    assert play.fetches() == [("a", 9)]
    # Block 1 was under way when the wants changed. No load is told of block 1, and its memory may
    # be taken.
    play.fetched(("a", 1))
    assert play.announced() == {}
    play.consume("x", (0, 0, 1))
    assert play.fetches() == [("a", 5)]


def test_the_order_of_wants_is_the_order_of_reading() -> None:
    play = Play(20, {"a": 4, "b": 2})
    play.open("x", "ab", wants=(BlockRange(1, 1, 2), BlockRange(0, 2, 4), BlockRange(1, 0, 1)))
    assert play.fetches() == [("b", 1), ("a", 2), ("a", 3), ("b", 0)]


def test_a_held_load_reads_some_shards_at_once_a_run_of_blocks_each() -> None:
    play = Play(30, {"a": 6, "b": 1, "c": 5, "d": 2, "e": 1}, slots=16)
    play.open("x", "abcde", hold=True)
    assert play.fetches() == [
        *(("a", 0), ("a", 1), ("a", 2), ("a", 3)),
        ("b", 0),
        *(("c", 0), ("c", 1), ("c", 2), ("c", 3)),
        *(("d", 0), ("d", 1)),
        ("e", 0),
        *(("a", 4), ("a", 5)),
        ("c", 4),
    ]


def test_a_run_begins_when_a_few_slots_are_free_and_goes_on_with_each() -> None:
    play = Play(40, {"a": 30}, slots=16)
    play.open("x", "a", hold=True)
    begun = [("a", block) for block in range(16)]
    assert play.fetches() == begun
    for count in range(3):
        play.fetched(("a", count))
        assert play.fetches() == [], "a run of four waits for four slots"
    play.fetched(("a", 3))
    assert play.fetches() == [("a", block) for block in range(16, 20)]


def test_no_run_waits_where_there_are_few_slots_or_a_small_concurrency() -> None:
    for options in ({"slots": 3}, {"slots": 16, "concurrency": 3}):
        play = Play(40, {"a": 30}, slots=options["slots"])
        play.open("x", "a", hold=True, concurrency=options.get("concurrency"))
        assert len(play.fetches()) == 3
        play.fetched(("a", 0))
        assert play.fetches() == [("a", 3)]


def test_overlapping_wants_count_once() -> None:
    play = Play(20, {"a": 4})
    play.open("x", "a", wants=(BlockRange(0, 1, 3), BlockRange(0, 0, 4), BlockRange(0, 0, 4)))
    assert play.fetches() == [("a", 1), ("a", 2), ("a", 0), ("a", 3)]


def test_a_cap_of_its_own_is_raised_to_the_smallest_window_and_kept() -> None:
    play = Play(20, {"a": 10})
    play.open("x", "a", memory_limit=5 * BLOCK)
    assert len(play.fetches()) == 5
    play.open("y", "a", memory_limit=1)
    assert play.load("y").cap_bytes == 2 * BLOCK


def test_a_short_last_block_fits_where_a_whole_one_does_not() -> None:
    play = Play(20, {"a": 2.25})
    play.open("x", "a", memory_limit=int(2.5 * BLOCK))
    assert play.fetches() == [("a", 0), ("a", 1), ("a", 2)]


def test_a_hit_is_what_costs_no_read_of_its_own() -> None:
    play = Play(20, {"a": 4})
    play.open("x", "a")
    play.open("y", "a")
    play.fetch_all()
    play.open("z", "a")
    totals = play.model.totals
    assert (totals.block_misses, totals.block_hits) == (4, 8)
    assert totals.served_bytes == 12 * BLOCK


@pytest.mark.parametrize("seed", range(20))
def test_whole_ranges_end_as_single_blocks_do(seed: int) -> None:
    """The fast path over ranges gives the same result as the path block by block."""
    rng = random.Random(seed)
    resident = [block for block in range(12) if rng.random() < 0.7] if seed else list(range(12))
    cap = rng.choice([-1, 0, 5 * BLOCK])
    hold = rng.random() < 0.3
    finals = []
    for single in (False, True):
        play = Play(40, {"a": 11.5, "b": 3})
        play.open("warm", "a", wants=tuple(BlockRange(0, b, b + 1) for b in resident))
        play.fetch_all()
        whole = (BlockRange(0, 0, 12), BlockRange(1, 0, 3))
        blocks = tuple(BlockRange(i, b, b + 1) for i, lo, hi in whole for b in range(lo, hi))
        play.open("x", "ab", wants=blocks if single else whole, memory_limit=cap, hold=hold)
        load = play.load("x")
        granted = play.only(c.Admit).granted
        finals.append(
            (
                [bytes(phases) for phases in load.phases],
                list(play.shard("a").claims),
                load.charge_bytes,
                load.pending_blocks,
                sorted((i, b) for i, lo, hi in granted for b in range(lo, hi)),
                play.fetches(),
                play.model.totals,
            )
        )
    assert finals[0] == finals[1]


def test_a_client_that_dies_between_two_events_leaves_no_claim() -> None:
    play = Play(4, {"a": 8})
    play.open("x", "a")
    play.open("y", "a")
    play.fetched(("a", 0))
    play.turn(
        e.BlocksConsumed(0, load_key("x"), (BlockRange(0, 0, 1),)),
        e.OwnerGone(0, "x"),
        e.BlocksConsumed(0, load_key("x"), (BlockRange(0, 1, 2),)),
        e.WantsReplaced(0, load_key("x"), (BlockRange(0, 0, 8),)),
        e.BlockFetched(0, *next(iter(play.model.fetching))),
    )
    assert all(count <= 1 for count in play.shard("a").claims)
    for _ in range(8):
        play.fetch_all()
        play.consume_granted("y")
    assert not play.load("y").wants
    assert not play.load("y").pending_blocks
