"""The order in which blocks are released when room is needed, and the blocks that never are."""

from __future__ import annotations

from tests.support.play import BLOCK, Play, key, load_key

from streamer_client.contract.layout import BlockRange
from streamerd.state import commands as c
from streamerd.state import events as e


def cached(play: Play, *letters: str) -> None:
    """Load each shard and end the load, a second apart."""
    for letter in letters:
        play.open(f"cache {letter}", letter)
        play.fetch_all()
        play.tick()
        play.close(f"cache {letter}")
        play.turn(e.LoadClosed(play.at_s, load_key(f"cache {letter}")))


def test_least_recently_used_first_and_each_from_its_end() -> None:
    play = Play(9, {"a": 3, "b": 3, "c": 3, "n": 4})
    cached(play, "a", "b", "c")
    play.open("again", "a", wants=())
    play.tick()
    play.turn(e.LoadClosed(play.at_s, load_key("again")))
    play.open("x", "n")
    assert play.releases() == [("b", 0, 3), ("c", 2, 3)]


def test_what_is_stale_goes_before_what_is_old() -> None:
    play = Play(6, {"a": 2, "b": 2, "n": 2})
    cached(play, "a", "b")
    play.shard("b").stale = True
    play.open("x", "n", wants=(BlockRange(0, 0, 2),))
    assert play.fetches()
    play.shard("b").stale = False


def test_leased_pinned_and_held_shards_never_go() -> None:
    play = Play(12, {"h": 3, "p": 3, "a": 20})
    play.open("h", "h", hold=True)
    play.fetch_all()
    cached(play, "p")
    play.turn(e.PinRequested(play.at_s, (key("p"),)))
    assert play.shard("p").pinned
    play.open("x", "a")
    for _ in range(20):
        play.fetch_all()
        play.consume_granted("x")
        play.tick(40)
    assert play.resident("h") == play.resident("p") == [0, 1, 2]
    assert not play.load("x").wants


def test_consumed_blocks_of_a_running_load_go_oldest_first() -> None:
    play = Play(4, {"a": 8})
    play.open("x", "a", wants=(BlockRange(0, 2, 3), BlockRange(0, 0, 1), BlockRange(0, 5, 8)))
    play.fetch_all()
    play.consume("x", (0, 2, 3))
    assert play.releases() == []  # there is room for one more block
    play.consume("x", (0, 0, 1))
    assert play.releases() == [("a", 2, 3)]
    play.fetch_all()
    play.want("x", (0, 3, 4))
    play.consume("x", (0, 5, 6))
    assert play.releases() == [("a", 0, 1)]


def test_blocks_that_another_load_wants_are_spared_until_it_lags() -> None:
    play = Play(8, {"a": 20}, lag_s=10)
    play.open("slow", "a", memory_limit=0)
    play.open("fast", "a")
    for _ in range(6):
        play.fetch_all()
        play.consume_granted("fast")
    stuck_at = play.load("fast").wants
    assert stuck_at
    assert play.used == 8
    play.tick(5)
    assert play.releases() == []
    play.tick(6)
    # The blocks that the slow load reads last are released, and only as many as needed.
    assert play.releases()
    taken = [block for _, start, stop in play.releases() for block in range(start, stop)]
    assert min(taken) >= 2
    for _ in range(30):
        play.fetch_all()
        play.consume_granted("fast")
        play.tick(1)
    assert not play.load("fast").wants
    assert play.granted("slow") == [(0, 0), (0, 1)]


def test_a_slow_load_reads_what_was_taken_again() -> None:
    play = Play(8, {"a": 20}, lag_s=1)
    play.open("slow", "a", memory_limit=0)
    play.open("fast", "a")
    for _ in range(30):
        play.fetch_all()
        play.consume_granted("fast")
        play.tick(2)
    assert not play.load("fast").wants
    seen = []
    for _ in range(30):
        seen += [block for _, block in play.granted("slow")]
        play.consume_granted("slow")
        play.fetch_all()
    assert seen == list(range(20))


def test_a_late_rank_gets_blocks_that_are_gone_already() -> None:
    play = Play(4, {"a": 12})
    play.open("first", "a")
    for _ in range(5):
        play.fetch_all()
        play.consume_granted("first")
    assert 0 not in play.resident("a")
    before = play.model.totals.block_misses
    play.open("late", "a")
    seen = []
    for _ in range(40):
        play.fetch_all()
        for owner in ("first", "late"):
            if owner == "late":
                seen += [block for _, block in play.granted("late")]
            play.consume_granted(owner)
        play.tick(1)
    assert seen == list(range(12))
    assert play.model.totals.block_misses > before


def test_a_lower_limit_takes_what_nobody_uses() -> None:
    play = Play(10, {"a": 4, "b": 4})
    cached(play, "a")
    play.open("x", "b", hold=True)
    play.fetch_all()
    play.core.handle([e.LimitChanged(play.at_s, 5 * BLOCK)])
    assert play.model.ledger.releasing_bytes == 3 * BLOCK
    assert play.resident("b") == [0, 1, 2, 3]


def test_a_lower_limit_takes_what_was_in_use_once_it_is_not() -> None:
    play = Play(10, {"a": 8})
    play.open("x", "a", hold=True)
    play.fetch_all()
    play.core.handle([e.LimitChanged(play.at_s, 5 * BLOCK)])
    assert play.model.ledger.releasing_bytes == 0
    # `play.close` would check the invariants, which hold again only when the blocks are released.
    play.core.handle([e.LoadClosed(play.at_s, load_key("x"))])
    assert play.model.ledger.releasing_bytes == 3 * BLOCK


def test_evicting_takes_only_what_is_free() -> None:
    play = Play(10, {"a": 4})
    play.open("x", "a")
    play.fetched(("a", 0), ("a", 1))
    play.consume("x", (0, 0, 1))
    play.turn(e.EvictRequested(0, (key("a"),)))
    assert play.releases() == [("a", 0, 1)]
    assert not play.all(c.RemoveSlab)


def test_evicted_blocks_that_are_on_their_way_go_when_they_arrive() -> None:
    play = Play(10, {"a": 4}, slots=2)
    play.open("x", "a")
    play.close("x")
    play.turn(e.EvictRequested(0, (key("a"),)))
    assert not play.all(c.RemoveSlab)
    play.fetched(("a", 0), ("a", 1))
    assert play.releases() == [("a", 0, 1), ("a", 1, 2)] or play.releases() == [("a", 0, 2)]
    play.released()
    assert play.only(c.RemoveSlab).shard == key("a")


def test_evicted_and_opened_again_before_the_last_block_arrived() -> None:
    play = Play(10, {"a": 4}, slots=2)
    play.open("x", "a")
    play.close("x")
    play.turn(e.EvictRequested(0, (key("a"),)))
    play.open("y", "a", hold=True)
    play.fetch_all()
    play.close("y")
    assert play.resident("a") == [0, 1, 2, 3]
