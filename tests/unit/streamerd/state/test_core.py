"""One turn of the core: the time at which it runs, and when it closes the source of a shard."""

from __future__ import annotations

import pytest
from tests.support.play import BLOCK, Play, key, load_key

from streamerd.state import commands as c
from streamerd.state import events as e
from streamerd.state import fetching
from streamerd.state.events import FailureKind


def test_a_held_shard_needs_it_until_all_of_it_is_there() -> None:
    play = Play(10, {"a": 3})
    play.open("x", "a", hold=True)
    play.fetched(("a", 0), ("a", 2))
    assert play.closed() == []
    play.fetched(("a", 1))
    assert play.closed() == ["a"]
    play.close("x")
    assert play.closed() == []


def test_it_is_given_up_after_the_last_fetch_was_begun() -> None:
    play = Play(10, {"a": 2}, slots=1)
    play.open("x", "a", hold=True)
    play.fetched(("a", 0))
    assert play.fetches() == [("a", 1)]
    assert play.closed() == []


def test_a_window_keeps_it_although_all_is_there() -> None:
    """Blocks that the load consumed may be released, and wanted again."""
    play = Play(10, {"a": 3})
    play.open("x", "a")
    play.fetched(("a", 0), ("a", 1), ("a", 2))
    assert play.closed() == []
    play.consume("x", (0, 0, 3))
    assert play.closed() == []
    play.close("x")
    assert play.closed() == ["a"]


def test_the_last_lease_takes_it_along() -> None:
    play = Play(10, {"a": 3})
    play.turn(play.opening("x", "a"), play.opening("y", "a"))
    play.fetch_all()
    play.gone("x")
    assert play.closed() == []
    play.gone("y")
    assert play.closed() == ["a"]
    assert play.resident("a") == [0, 1, 2]


def test_a_window_beside_a_holder_keeps_it_for_itself() -> None:
    """The load that holds the shard may end, and its blocks may be released then."""
    play = Play(10, {"a": 3, "b": 9})
    play.open("holder", "a", hold=True)
    play.open("window", "a", wants=())
    play.fetch_all()
    assert play.closed() == []
    play.close("holder")
    play.open("other", "b")
    play.fetch_all()
    play.consume_granted("other")
    play.fetch_all()
    assert play.resident("a") != [0, 1, 2]
    play.want("window", (0, 0, 3))
    play.fetch_all()
    assert play.granted("window")
    play.close("window")
    assert play.closed() == ["a"]


def test_a_pin_is_no_reason_to_give_it_up_under_a_window() -> None:
    """The shard may be unpinned while the load with a window still reads."""
    play = Play(10, {"a": 3})
    play.open("x", "a")
    play.fetch_all()
    play.turn(e.PinRequested(0, (key("a"),)))
    assert play.closed() == []
    play.turn(e.UnpinRequested(0, (key("a"),)))
    play.close("x")
    assert play.closed() == ["a"]


def test_released_shards_are_given_up_one_by_one() -> None:
    play = Play(20, {"a": 3, "b": 3})
    play.open("x", "ab")
    play.fetch_all()
    play.turn(e.ShardsReleased(0, load_key("x"), (1,)))
    assert play.closed() == ["b"]


def test_resident_shards_give_up_at_once_what_was_brought_for_them() -> None:
    play = Play(10, {"a": 3})
    play.open("x", "a", hold=True)
    play.fetch_all()
    play.open("y", "a", hold=True)
    assert play.closed() == ["a"]
    assert play.fetches() == []


def test_a_load_that_waits_keeps_what_it_brought() -> None:
    play = Play(10, {"a": 8, "b": 8})
    play.open("x", "a", hold=True)
    play.open("w", "a", wants=())
    play.open("y", "b")
    assert play.closed() == []
    play.fetch_all()
    play.close("x")
    play.close("w")
    play.fetch_all()
    assert play.load("y").admitted
    assert "b" not in play.closed()


def test_a_load_that_is_rejected_gives_up_what_it_brought() -> None:
    play = Play(4, {"a": 8})
    play.open("p", "a", hold=True, prefetch=True)
    assert play.only(c.Reject).load == load_key("p")
    # The shard is gone from the model, so the core sends no command to close its source.
    assert play.closed() == []
    assert play.model.shards == {}


def test_an_adopted_shard_has_no_open_source() -> None:
    play = Play(10, {"a": 3})
    adopted = e.ShardAdopted(0, key("a"), 3 * BLOCK, ((0, 3),), False, False, False, 0.0)
    play.turn(adopted)
    play.turn(*(e.BlockProven(0, key("a"), block) for block in range(3)))
    assert play.closed() == []
    play.open("x", "a", hold=True)
    assert play.closed() == ["a"]


def test_blocks_that_await_their_proof_may_have_to_be_read() -> None:
    play = Play(10, {"a": 2})
    play.turn(e.ShardAdopted(0, key("a"), 2 * BLOCK, ((0, 2),), False, False, False, 0.0))
    play.open("x", "a", hold=True)
    assert play.closed() == []
    play.turn(e.BlockProven(0, key("a"), 0))
    assert play.closed() == []
    play.turn(e.BlockRefuted(0, key("a"), 1))
    play.released()
    assert play.fetches() == [("a", 1)]
    play.fetched(("a", 1))
    assert play.closed() == ["a"]


def test_who_comes_after_it_was_given_up_brings_another() -> None:
    play = Play(4, {"a": 2, "b": 4})
    play.open("x", "a")
    play.fetch_all()
    play.close("x")
    assert play.closed() == ["a"]
    play.open("y", "b")
    play.fetch_all()
    play.close("y")
    play.open("x", "a")
    play.fetch_all()
    assert play.granted("x") == [(0, 0), (0, 1)]
    assert play.closed() == []


def test_a_failure_keeps_it_for_who_tries_again() -> None:
    play = Play(10, {"a": 3}, slots=1)
    play.open("x", "a", hold=True)
    play.fails("a", 0, FailureKind.ERROR)
    assert play.failed() == [("x", 0, "source")]
    play.close("x")
    play.released()
    assert play.model.shards == {}
    play.open("x", "a", hold=True)
    play.fetch_all()
    assert play.resident("a") == [0, 1, 2]


def test_a_turn_without_events_runs_at_the_time_of_the_last_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At time 0 no load would lag, and other loads would wait for a stuck one."""
    play = Play(4, {"a": 1})
    play.tick(31)
    times: list[float] = []
    monkeypatch.setattr(fetching, "dispatch", lambda _model, now_s: times.append(now_s))
    play.turn()
    assert times == [31]
