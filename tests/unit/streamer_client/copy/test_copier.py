"""The copying threads carry jobs out and report each end, raise errors, and keep nothing."""

from __future__ import annotations

import gc
import weakref
from typing import Any, cast

import pytest
from tests.support.rings import Memory

from streamer_client.copy.copier import Copier
from streamer_client.copy.plan import BlockJob, CopyRun, Piece


class Feed:
    def __init__(self) -> None:
        self.ended: list[int] = []
        self.given_back: list[tuple[int, int]] = []

    def wait(self, number: int, shard: int, block: int) -> None:
        assert (number, shard) == (7, 0)
        if block == 13:
            raise ValueError("block 13")

    def consumed(self, number: int, shard: int, block: int) -> None:
        assert number == 7
        self.given_back.append((shard, block))

    def end(self, number: int) -> None:
        self.ended.append(number)


class Engine:
    threads = 3

    def __init__(self) -> None:
        self.copied = 0
        self.settled: list[int] = []
        self.entered = self.left = self.closed = 0

    def enter(self) -> None:
        self.entered += 1

    def copy(self, feed: Any, shard: int, run: Any) -> int:
        assert isinstance(feed, Feed)
        assert shard == 0
        self.copied += 1
        return int(run.start)

    def settle(self, ticket: int) -> None:
        self.settled.append(ticket)

    def leave(self) -> None:
        self.left += 1

    def close(self) -> None:
        assert self.left == self.entered
        self.closed += 1


def job(block: int, targets: list[Memory]) -> BlockJob[Memory]:
    runs = []
    for place, target in enumerate(targets):
        run: CopyRun[Memory] = CopyRun(10 * block + place)
        run.pieces.append(Piece(target, 0, target.left_bytes))
        runs.append(run)
    return BlockJob(0, block, runs)


def copier(feed: Feed, engine: Engine, most_blocks: int = 99) -> Copier[Memory]:
    return Copier(cast("Any", feed), 7, cast("Any", engine), most_blocks)


def test_jobs_are_settled_by_their_last_ticket_and_told_once() -> None:
    feed, engine = Feed(), Engine()
    targets = [Memory(4) for _ in range(100)]
    done: list[Memory] = []
    with copier(feed, engine) as copies:
        for block in range(50):
            done += copies.submit(job(block + 100, targets[2 * block : 2 * block + 2]))
        done += copies.drain()
    assert sorted(map(id, done)) == sorted(map(id, targets))
    assert sorted(engine.settled) == [10 * block + 1001 for block in range(50)]
    assert sorted(feed.given_back) == [(0, block + 100) for block in range(50)]
    assert (engine.copied, engine.entered, engine.left, engine.closed) == (100, 3, 3, 1)
    assert feed.ended == [7]


def test_no_more_threads_than_blocks() -> None:
    engine = Engine()
    with copier(Feed(), engine, most_blocks=2):
        pass
    assert engine.entered == 2


def test_an_error_of_a_thread_is_raised_by_the_caller() -> None:
    engine = Engine()
    with copier(Feed(), engine) as copies:
        list(copies.submit(job(13, [Memory(1)])))
        with pytest.raises(ValueError, match="block 13"):
            list(copies.drain())
    assert engine.closed == 1


def test_threads_that_wait_keep_no_memory() -> None:
    with copier(Feed(), Engine()) as copies:
        target = Memory(4)
        gone = weakref.ref(target)
        list(copies.submit(job(1, [target])))
        assert list(copies.drain()) == [target]
        del target
        gc.collect()
        assert gone() is None
