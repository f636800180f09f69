"""The loads that run and those that wait, and the slabs' state when loads end."""

from __future__ import annotations

from tests.support.play import BLOCK, Play, key, load_key

from streamer_client.contract.layout import BlockRange
from streamer_client.contract.sizes import format_size
from streamerd.state import commands as c
from streamerd.state import events as e


def test_a_load_that_fits_is_held_whole() -> None:
    play = Play(10, {"a": 4})
    play.open("x", "a", hold=True)
    assert play.said[0] == c.CreateSlab(key("a"), 4 * BLOCK)
    assert play.only(c.Admit) == c.Admit(load_key("x"), True, (), 0)
    assert play.fetches() == [("a", block) for block in range(4)]
    assert play.model.ledger.committed_bytes == 4 * BLOCK


def test_one_smallest_window_stays_free_of_holders() -> None:
    play = Play(10, {"a": 9, "b": 8})
    play.open("x", "a", hold=True)
    assert not play.only(c.Admit).held
    play.close("x")
    play.open("y", "b", hold=True)
    assert play.only(c.Admit).held


def test_holders_of_one_shard_pay_for_it_once() -> None:
    play = Play(10, {"a": 8})
    play.open("x", "a", hold=True)
    play.open("y", "a", hold=True)
    assert play.only(c.Admit).held
    assert play.fetches() == []
    assert play.model.ledger.committed_bytes == 8 * BLOCK
    play.close("x")
    assert play.model.ledger.committed_bytes == 8 * BLOCK
    play.close("y")
    assert play.model.ledger.committed_bytes == 0


def test_loads_that_do_not_fit_wait_in_line_and_are_told_the_numbers() -> None:
    play = Play(4, {"a": 9, "b": 9, "c": 9, "d": 9})
    play.open("x", "a", wants=())
    play.open("y", "b", wants=())
    play.open("z", "c")
    report = play.only(c.ReportWaiting)
    assert (report.load, report.needs_bytes) == (load_key("z"), 2 * BLOCK)
    assert (report.available_bytes, report.limit_bytes) == (0, 4 * BLOCK)
    assert not play.all(c.Admit)
    play.open("w", "d")
    play.close("y")
    assert [admit.load.owner for admit in play.all(c.Admit)] == ["z"]
    assert list(play.model.waiting) == [load_key("w")]


def test_nobody_overtakes_whoever_waits() -> None:
    """A small load would fit, but would starve the first load in line."""
    play = Play(4, {"a": 9, "b": 9, "c": 9, "s": 0.5})
    play.open("x", "a", wants=())
    play.open("y", "b", wants=())
    play.open("z", "c")
    play.open("small", "s")
    assert play.all(c.ReportWaiting)
    play.close("x")
    play.close("y")
    assert not play.model.waiting


def test_while_somebody_waits_no_window_grows() -> None:
    play = Play(8, {"a": 9, "b": 9, "c": 5, "d": 9})
    play.open("h", "c", hold=True)
    play.open("x", "a")
    play.open("z", "d")
    assert play.all(c.ReportWaiting)
    play.fetch_all()
    assert len(play.granted("x")) <= 3
    play.consume_granted("x")
    play.fetch_all()
    assert len(play.granted("x")) == 2


def test_a_load_that_waits_may_end_before_it_runs() -> None:
    play = Play(2, {"a": 9, "b": 9})
    play.open("x", "a")
    play.open("y", "b")
    play.gone("y")
    assert not play.model.waiting
    assert play.only(c.RemoveSlab).shard == key("b")


def test_a_prefetch_that_cannot_be_held_is_rejected_and_leaves_nothing() -> None:
    play = Play(10, {"a": 9})
    play.open("", "a", hold=True, prefetch=True)
    reject = play.only(c.Reject)
    assert reject.code == "memory-limit"
    assert format_size(11 * BLOCK) in reject.message
    assert play.only(c.RemoveSlab).shard == key("a")
    assert not play.model.shards
    assert not play.model.loads


def test_a_prefetch_finishes_once_all_is_there() -> None:
    play = Play(10, {"a": 2})
    play.open("", "a", hold=True, prefetch=True)
    play.fetched(("a", 0))
    assert not play.all(c.Finish)
    play.fetched(("a", 1))
    assert play.only(c.Finish).load == load_key("")
    play.tick()
    assert not play.all(c.Finish)


def test_opening_and_closing_in_one_turn_says_nothing_to_the_client() -> None:
    play = Play(10, {"a": 2})
    play.turn(play.opening("x", "a"), e.LoadClosed(0, load_key("x")))
    assert [type(command) for command in play.said] == [c.CreateSlab, c.RemoveSlab]


def test_the_end_of_a_slab_and_its_next_opening_in_one_turn() -> None:
    """The slab is removed first and made again after it, since the service carries commands out in
    this order.
    """
    play = Play(10, {"a": 1})
    play.open("x", "a")
    play.fetch_all()
    play.close("x")
    play.turn(e.EvictRequested(0, (key("a"),)))
    play.released(play.opening("y", "a"))
    kinds = [type(command) for command in play.said]
    assert kinds.index(c.RemoveSlab) < kinds.index(c.CreateSlab)
    assert play.fetches() == [("a", 0)]


def test_the_cache_outlives_its_last_load() -> None:
    play = Play(10, {"a": 2})
    play.open("x", "a", hold=True)
    play.fetch_all()
    play.close("x")
    assert play.said == []
    play.open("y", "a", hold=True)
    admit = play.only(c.Admit)
    assert (admit.granted, admit.resident_bytes) == ((BlockRange(0, 0, 2),), 2 * BLOCK)
    assert play.fetches() == []


def test_another_content_of_a_file_is_another_shard() -> None:
    play = Play(10, {"a": 2})
    play.open("x", "a", hold=True)
    play.fetch_all()
    play.open("y", "a", hold=True, version=1)
    assert len(play.fetches()) == 2
    assert play.granted("x") == [(0, 0), (0, 1)]
    play.close("x")  # no later load may use the old content
    assert play.releases() == [("a", 0, 2)]
    play.released()
    assert play.only(c.RemoveSlab).shard == key("a")


def test_shards_are_released_one_by_one() -> None:
    play = Play(10, {"a": 2, "b": 2})
    play.open("x", "ab", hold=True)
    play.fetch_all()
    play.turn(e.ShardsReleased(0, load_key("x"), (0, 0)))
    assert play.model.ledger.committed_bytes == 2 * BLOCK
    assert not play.shard("a").loads
    play.turn(e.ShardsReleased(0, load_key("x"), (0, 1)))
    play.close("x")
    assert play.model.ledger.committed_bytes == 0


def test_pins_are_promises() -> None:
    play = Play(10, {"a": 5, "b": 5})
    for owner in "ab":
        play.open(owner, owner)
        play.fetch_all()
        play.consume_granted(owner)
        play.fetch_all()
        play.close(owner)
    play.turn(e.PinRequested(0, (key("a"),)))
    play.turn(e.PinRequested(0, (key("b"),)))
    assert (play.shard("a").pinned, play.shard("b").pinned) == (True, False)
    play.turn(e.EvictRequested(0, (key("a"), key("b"))))
    assert play.releases() == [("b", 0, 5)]
    play.turn(e.UnpinRequested(0, (key("a"),)))
    assert play.model.ledger.committed_bytes == 0


def test_an_empty_shard_needs_no_memory() -> None:
    play = Play(2, {"e": 0, "a": 2})
    play.open("x", "ea")
    assert play.only(c.Admit)
    play.fetch_all()
    play.open("y", "e", hold=True)
    assert play.only(c.Admit)
    assert play.load("y").window_bytes == 0
