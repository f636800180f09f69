"""Slabs of an earlier daemon: blocks are proven before they are granted, and never taken from old
views.
"""

from __future__ import annotations

from collections import deque

from tests.support.play import BLOCK, Play, key, load_key

from streamer_client.contract.layout import BlockRange
from streamerd.state import commands as c
from streamerd.state import events as e


def adopt(
    play: Play,
    letter: str,
    *resident: tuple[int, int],
    proven: bool = True,
    in_use: bool = False,
    pinned: bool = False,
    last_used_s: float = 0.0,
) -> list[c.AnyCommand]:
    size_bytes = int(play.sizes[letter] * BLOCK)
    blocks = resident or ((0, -(-size_bytes // BLOCK)),)
    event = e.ShardAdopted(
        play.at_s, key(letter), size_bytes, blocks, proven, in_use, pinned, last_used_s
    )
    return play.turn(event)


def test_what_was_left_in_good_order_is_there_at_once() -> None:
    play = Play(10, {"a": 3.5})
    assert adopt(play, "a") == []
    assert play.model.ledger.used_bytes == 3.5 * BLOCK
    play.open("x", "a", hold=True)
    assert play.announced() == {"x": (BlockRange(0, 0, 4),)}
    assert play.fetches() == []
    assert play.model.totals.block_hits == 4


def test_what_a_killed_daemon_left_is_granted_once_it_is_proven() -> None:
    play = Play(10, {"a": 3})
    adopt(play, "a", proven=False)
    assert play.all(c.ProveBlocks) == [c.ProveBlocks(key("a"), 0, 3)]
    play.open("x", "a")
    assert play.announced() == {}
    assert play.fetches() == []
    play.turn(e.BlockProven(0, key("a"), 1))
    assert play.announced() == {"x": (BlockRange(0, 1, 2),)}


def test_what_is_refuted_is_read_again() -> None:
    play = Play(10, {"a": 3})
    adopt(play, "a", proven=False)
    play.open("x", "a")
    play.turn(e.BlockRefuted(0, key("a"), 1))
    assert play.releases() == [("a", 1, 2)]
    play.released()
    assert play.fetches() == [("a", 1)]
    play.fetched(("a", 1))
    assert play.announced() == {"x": (BlockRange(0, 1, 2),)}


def test_missing_blocks_of_an_adopted_shard_are_fetched() -> None:
    play = Play(10, {"a": 4})
    adopt(play, "a", (0, 1), (2, 3))
    play.open("x", "a")
    assert play.announced() == {"x": (BlockRange(0, 0, 1), BlockRange(0, 2, 3))}
    assert sorted(play.fetches()) == [("a", 1), ("a", 3)]


def test_pins_are_kept() -> None:
    play = Play(10, {"a": 4, "b": 8})
    adopt(play, "a", pinned=True)
    assert play.shard("a").pinned
    play.open("x", "b", hold=True)
    assert not play.load("x").held
    assert play.releases() == []


def test_a_pin_that_finds_no_room_is_let_go() -> None:
    play = Play(4, {"a": 4})
    adopt(play, "a", (0, 2), pinned=True)
    assert not play.shard("a").pinned


def test_adopted_shards_go_in_the_order_of_their_last_use() -> None:
    play = Play(6, {"a": 2, "b": 2, "n": 4})
    adopt(play, "a", last_used_s=-10)
    adopt(play, "b", last_used_s=-20)
    play.open("x", "n")
    assert play.releases()[0][0] == "b"


def test_a_slab_that_others_map_goes_as_a_whole() -> None:
    play = Play(6, {"a": 4, "n": 4})
    adopt(play, "a", in_use=True)
    play.open("x", "n")
    assert len(play.fetches()) == 2
    assert play.releases() == []
    assert play.only(c.ReplaceSlab) == c.ReplaceSlab(key("a"), 4 * BLOCK, ((0, 4),))
    play.turn(e.BlocksReleased(0, key("a"), 0, 4))
    assert play.only(c.RemoveSlab).shard == key("a")
    assert len(play.fetches()) == 2


def test_a_running_load_keeps_a_slab_whole_that_others_have_mapped() -> None:
    play = Play(10, {"a": 4, "n": 20})
    adopt(play, "a", in_use=True)
    play.open("x", "a", memory_limit=0)
    assert not play.load("x").held
    assert play.shard("a").committed
    play.open("y", "n")
    for _ in range(20):
        play.fetch_all()
        play.consume_granted("x")
        play.consume_granted("y")
    assert play.resident("a") == [0, 1, 2, 3]
    assert not play.load("y").wants
    play.close("x")
    assert not play.shard("a").committed


def test_what_cannot_be_kept_whole_begins_anew() -> None:
    play = Play(6, {"a": 20})
    adopt(play, "a", (0, 3), in_use=True)
    said = play.open("x", "a")
    kinds = [type(command) for command in said]
    assert kinds.index(c.ReplaceSlab) < kinds.index(c.Admit)
    assert play.announced() == {}
    play.turn(e.BlocksReleased(0, key("a"), 0, 3))
    assert ("a", 0) in play.fetches()


def test_what_is_still_being_proven_is_waited_for() -> None:
    play = Play(6, {"a": 20})
    adopt(play, "a", (0, 2), proven=False, in_use=True)
    play.open("x", "a")
    assert play.all(c.ReportWaiting)
    play.turn(e.BlockProven(0, key("a"), 0))
    assert not play.all(c.Admit)
    play.turn(e.BlockProven(0, key("a"), 1))
    assert play.all(c.ReplaceSlab)
    assert play.all(c.Admit)


def test_a_waiting_load_does_not_keep_it_from_others() -> None:
    play = Play(6, {"h": 2, "a": 20, "n": 2})
    adopt(play, "a", (0, 3), in_use=True)
    play.open("h", "h", hold=True)
    play.open("w1", "n", wants=())
    play.open("w2", "n", wants=())
    play.fetch_all()
    play.open("late", "a")
    assert play.model.waiting == deque([load_key("late")])
    play.want("w1", (0, 0, 2))
    assert play.only(c.ReplaceSlab).ranges == ((0, 3),)
    play.released()
    play.turn(e.BlocksReleased(0, key("a"), 0, 3))
    play.fetch_all()
    assert play.granted("w1") == [(0, 0), (0, 1)]
    assert play.model.waiting


def test_evicting_it_leaves_an_empty_slab_that_goes() -> None:
    play = Play(10, {"a": 4})
    adopt(play, "a", in_use=True)
    play.turn(e.EvictRequested(0, (key("a"),)))
    assert play.only(c.ReplaceSlab).ranges == ((0, 4),)
    play.turn(e.BlocksReleased(0, key("a"), 0, 4))
    assert play.only(c.RemoveSlab).shard == key("a")
    assert play.used == 0


def test_evicting_while_it_is_proven_waits_for_the_proofs() -> None:
    play = Play(10, {"a": 2})
    adopt(play, "a", proven=False, in_use=True)
    play.turn(e.EvictRequested(0, (key("a"),)))
    assert not play.all(c.ReplaceSlab)
    play.turn(e.BlockProven(0, key("a"), 0), e.BlockProven(0, key("a"), 1))
    assert play.only(c.ReplaceSlab).ranges == ((0, 2),)


def test_another_content_of_the_same_file_replaces_it() -> None:
    play = Play(10, {"a": 3})
    adopt(play, "a")
    play.open("x", "a", version=1)
    assert play.releases() == [("a", 0, 3)]
    assert len(play.fetches()) == 3
    assert load_key("x") in play.model.loads
