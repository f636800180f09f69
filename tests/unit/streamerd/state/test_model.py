"""All contents of one source are found by its URI, so that an open finds those that it replaces."""

from __future__ import annotations

from tests.support.play import Play, key

from streamerd.state import commands as c


def test_contents_of_one_source_are_indexed_together() -> None:
    play = Play(20, {"a": 2, "b": 1})
    play.open("x", "ab")
    play.open("y", "a", version=1)
    assert play.model.contents == {
        "/a": [play.shard("a"), play.shard("a", 1)],
        "/b": [play.shard("b")],
    }


def test_a_newer_content_makes_the_older_go_with_its_lease() -> None:
    play = Play(20, {"a": 2})
    play.open("x", "a", hold=True)
    play.fetch_all()
    play.open("y", "a", version=1, hold=True)
    play.fetch_all()
    assert play.resident("a") == [0, 1]
    play.close("x")
    play.released()
    assert play.only(c.RemoveSlab).shard == key("a")
    assert play.model.contents == {"/a": [play.shard("a", 1)]}


def test_a_newer_content_removes_an_older_one_without_a_lease() -> None:
    play = Play(20, {"a": 2})
    play.open("x", "a")
    play.fetch_all()
    play.close("x")
    play.open("y", "a", version=1)
    play.fetch_all()
    assert play.model.shards.keys() == {key("a", 1)}


def test_the_index_forgets_what_is_gone() -> None:
    play = Play(20, {"a": 2})
    play.open("x", "a", wants=())
    play.close("x")
    assert play.model.contents == {}
    assert play.model.shards == {}
