"""A file with other bytes ends its loads; a failure of one load leaves the other loads
their shard.
"""

from __future__ import annotations

from tests.support.play import Play, key, load_key

from streamerd.state import commands as c
from streamerd.state import events as e


def test_a_superseded_shard_fails_every_load_of_it_and_no_other() -> None:
    play = Play(20, {"a": 3, "b": 3})
    play.turn(play.opening("x", "ab"), play.opening("y", "a"), play.opening("z", "b"))
    play.fetched(("a", 0), ("b", 0))
    play.supersedes("a")
    assert play.failed() == [("x", 0, "source-changed"), ("y", 0, "source-changed")]
    play.fetch_all()
    assert (1, 2) in play.granted("x")
    assert play.granted("z") == [(0, 0), (0, 1), (0, 2)]
    assert play.model.totals.errors == 1


def test_what_was_granted_of_it_stays_until_its_loads_end() -> None:
    """A client may be reading the shard, and learns of the failure a moment later."""
    play = Play(10, {"a": 3})
    play.open("x", "a", hold=True)
    play.fetch_all()
    play.supersedes("a")
    assert play.releases() == []
    assert play.resident("a") == [0, 1, 2]
    play.close("x")
    assert play.releases() == [("a", 0, 3)]
    play.released()
    assert play.only(c.RemoveSlab).shard == key("a")


def test_without_a_load_it_goes_at_once_even_pinned() -> None:
    play = Play(10, {"a": 3, "b": 2})
    play.open("x", "ab")
    play.fetch_all()
    play.close("x")
    play.turn(e.PinRequested(0, (key("a"),)))
    play.supersedes("a")
    assert play.releases() == [("a", 0, 3)]
    play.released()
    assert play.model.shards.keys() == {key("b")}


def test_blocks_that_arrive_for_it_later_go_at_once() -> None:
    play = Play(10, {"a": 3}, slots=2)
    play.open("x", "a")
    play.supersedes("a")
    play.close("x")
    play.fetched(("a", 0), ("a", 1))
    assert play.releases() == [("a", 0, 2)]
    assert play.fetches() == []


def test_nothing_of_it_is_fetched_any_more() -> None:
    play = Play(10, {"a": 4}, slots=1)
    play.open("x", "a")
    play.supersedes("a")
    play.fetched(("a", 0))
    assert play.fetches() == []
    play.want("x", (0, 1, 4))
    assert play.fetches() == []


def test_the_next_edition_begins_empty_beside_the_old_one() -> None:
    play = Play(20, {"a": 3})
    play.open("old", "a", hold=True)
    play.fetch_all()
    play.supersedes("a")
    play.open("new", "a", hold=True, version=1)
    assert play.only(c.CreateSlab).shard == key("a", 1)
    assert len(play.fetches()) == 3
    play.fetch_all()
    assert play.granted("new") == [(0, 0), (0, 1), (0, 2)]
    assert play.granted("old") == [(0, 0), (0, 1), (0, 2)]
    play.close("old")
    play.released()
    assert play.model.shards.keys() == {key("a", 1)}


def test_a_load_that_waits_for_memory_is_told_too() -> None:
    play = Play(10, {"a": 8, "b": 8})
    play.open("x", "a", hold=True)
    play.open("w", "a", wants=())
    play.open("y", "b")
    play.supersedes("b")
    assert play.failed() == [("y", 0, "source-changed")]


def test_a_shard_that_is_not_known_is_nobodys() -> None:
    play = Play(10, {"a": 3})
    assert play.supersedes("a") == []
    assert play.turn(e.ShardRefused(0, load_key("x"), key("a"), "source", "no")) == []


def test_a_refused_shard_fails_for_that_load_alone() -> None:
    play = Play(20, {"a": 3, "b": 3}, slots=1)
    play.turn(play.opening("x", "ab"), play.opening("y", "a"))
    play.refuses_shard("x", "a")
    assert play.failed() == [("x", 0, "source")]
    play.fetch_all()
    assert play.granted("y") == [(0, 0), (0, 1), (0, 2)]
    assert play.granted("x") == [(1, 0), (1, 1), (1, 2)]
    assert not play.shard("a").stale


def test_a_refusal_is_told_once() -> None:
    play = Play(20, {"a": 3})
    play.turn(play.opening("x", "a"), play.opening("y", "a"))
    play.refuses_shard("x", "a")
    assert play.refuses_shard("x", "a") == []
    play.supersedes("a")
    assert play.failed() == [("y", 0, "source-changed")]


def test_a_refusal_of_a_load_that_has_ended_is_nothing() -> None:
    play = Play(20, {"a": 3})
    play.turn(play.opening("x", "a"), play.opening("y", "a"))
    play.close("x")
    assert play.refuses_shard("x", "a") == []
    assert play.shard("a").error is None


def test_what_nobody_may_have_is_read_anew_for_who_comes_next() -> None:
    play = Play(20, {"a": 3})
    play.open("x", "a")
    play.fetch_all()
    play.refuses_shard("x", "a")
    assert play.shard("a").error == ("source", "no")
    play.close("x")
    assert play.releases() == [("a", 0, 3)]


def test_a_transient_shard_goes_with_its_last_lease() -> None:
    """Nothing proves that the object stays the same, so nobody gets it from memory."""
    play = Play(20, {"a": 3}, transient="a")
    play.turn(play.opening("x", "a"), play.opening("y", "a"))
    play.fetch_all()
    play.close("x")
    assert play.releases() == []
    play.close("y")
    assert play.releases() == [("a", 0, 3)]
    play.released()
    assert play.model.shards == {}


def test_a_transient_shard_is_not_kept_by_a_pin() -> None:
    play = Play(20, {"a": 3}, transient="a")
    play.open("p", "a", hold=True, prefetch=True, pin=True)
    play.fetched(("a", 0), ("a", 1), ("a", 2))
    assert play.only(c.Finish).load == load_key("p")
    play.close("p")
    play.released()
    assert play.model.shards == {}
    assert play.model.ledger.committed_bytes == 0
