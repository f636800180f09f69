"""Refused credentials: which load is blamed, which is asked for new ones, whose are used, and which
fails.
"""

from __future__ import annotations

import pytest
from tests.support.play import Play, load_key

from streamerd.state import commands as c
from streamerd.state.events import FailureKind

DENIED, EXPIRED = FailureKind.DENIED, FailureKind.EXPIRED


@pytest.fixture
def play() -> Play:
    return Play(20, {"a": 2, "b": 2, "c": 1}, remote="abc", remote_slots=1)


def lenders(play: Play) -> list[str]:
    return [fetch.credentials_of.owner for fetch in play.all(c.FetchBlock)]


def failed(play: Play) -> list[tuple[str, int, str]]:
    return [(f.load.owner, f.shard, f.message) for f in play.all(c.FailShard)]


def test_a_denied_load_fails_and_the_other_reads_on(play: Play) -> None:
    play.open("good", "a", hold=True)
    play.open("bad", "a", hold=True)
    play.refuses("a", 0, DENIED, "bad")
    assert failed(play) == [("bad", 0, "text")]
    play.released()
    play.fetch_all()
    assert play.resident("a") == [0, 1]
    assert play.granted("good") == [(0, 0), (0, 1)]
    assert play.granted("bad") == []
    assert play.shard("a").error is None


def test_with_everybody_denied_the_shard_has_failed(play: Play) -> None:
    play.open("x", "a")
    play.open("y", "a")
    play.refuses("a", 0, DENIED, "x", "y")
    assert [owner for owner, _, _ in failed(play)] == ["x", "y"]
    assert play.shard("a").error == ("no", "text")
    play.released()
    assert play.fetches() == []


def test_an_expired_load_is_asked_once_and_goes_on_when_renewed(play: Play) -> None:
    play.open("x", "a")
    play.refuses("a", 0, EXPIRED, "x")
    assert play.only(c.AskCredentials).load == load_key("x")
    play.released()
    assert play.fetches() == []
    play.renews("x")
    assert play.fetches() == [("a", 0)]
    play.fetch_all()
    assert play.granted("x") == [(0, 0), (0, 1)]
    assert play.model.totals.retries == 1


def test_meanwhile_another_holder_lends_its_credentials(play: Play) -> None:
    play.open("x", "a")
    play.open("y", "a")
    play.refuses("a", 0, EXPIRED, "x")
    play.released()
    seen = lenders(play)
    while play.model.fetching:
        ((shard, block),) = play.model.fetching
        play.fetched((shard.uri[1:], block))
        seen += lenders(play)
    assert set(seen) == {"y"}
    assert play.granted("x") == play.granted("y") == [(0, 0), (0, 1)]


def test_a_lender_that_is_denied_fails_alone(play: Play) -> None:
    play.open("x", "c")
    play.open("y", "c")
    play.refuses("c", 0, EXPIRED, "x")
    play.released()
    play.refuses("c", 0, DENIED, "y")
    assert failed(play) == [("y", 0, "text")]
    play.released()
    assert play.fetches() == []
    play.renews("x")
    assert lenders(play) == ["x"]


def test_without_newer_ones_it_fails_at_once_with_the_stores_text(play: Play) -> None:
    play.open("x", "ab")
    play.refuses("a", 0, EXPIRED, "x")
    play.renews("x", newer=False)
    assert failed(play) == [("x", 0, "text"), ("x", 1, "text")]


def test_without_an_answer_it_fails_when_its_time_is_over(play: Play) -> None:
    play.open("x", "a")
    play.refuses("a", 0, EXPIRED, "x")
    play.tick(59)
    assert failed(play) == []
    play.tick(1)
    assert failed(play) == [("x", 0, "text")]


def test_renewals_that_do_not_help_end(play: Play) -> None:
    play.open("x", "c")
    for _ in range(5):
        play.refuses("c", 0, EXPIRED, "x")
        assert failed(play) == []
        play.released()
        play.tick(10)
        play.renews("x")
        assert play.fetches() == [("c", 0)]
    play.tick(10)
    play.refuses("c", 0, EXPIRED, "x")
    assert failed(play) == [("x", 0, "text")]


def test_an_expiry_after_a_good_while_is_a_new_one(play: Play) -> None:
    play.open("x", "c")
    for _ in range(3):
        play.refuses("c", 0, EXPIRED, "x")
        play.released()
        play.renews("x")
        play.tick(3600)
    assert failed(play) == []
    assert play.model.fetching


def test_old_credentials_refused_after_the_renewal_blame_nobody(play: Play) -> None:
    play.open("x", "c")
    play.refuses("c", 0, EXPIRED)
    play.released()
    assert lenders(play) == ["x"]


def test_a_prefetch_has_nobody_to_ask(play: Play) -> None:
    play.open("", "a", hold=True, prefetch=True)
    play.refuses("a", 0, EXPIRED, "")
    assert failed(play) == [("", 0, "text")]
    assert play.all(c.AskCredentials) == []


def test_a_full_store_takes_no_slot_of_a_disk_and_the_other_way_round() -> None:
    play = Play(20, {"a": 4, "b": 4}, slots=2, remote="a", remote_slots=3)
    play.open("x", "a")
    assert play.fetches() == [("a", 0), ("a", 1), ("a", 2)]
    play.open("y", "b")
    assert play.fetches() == [("b", 0), ("b", 1)]
    play.fetched(("a", 1))
    assert play.fetches() == [("a", 3)]
    play.fetched(("b", 0))
    assert play.fetches() == [("b", 2)]


def test_concurrency_is_the_number_of_connections_of_a_load() -> None:
    play = Play(20, {"a": 8}, remote="a", remote_slots=5)
    play.open("x", "a", concurrency=2)
    assert len(play.fetches()) == 2
