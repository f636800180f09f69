"""How many reads of each stage are under way, and when the plan is asked a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.remembered import Remembered
from streamerd.fleet.plan.events import OWNER
from streamerd.memory.room import MemoryRoom
from streamerd.reading.backing import Backing
from streamerd.reading.checksums import Checksums
from streamerd.reading.fetches import Fetches
from streamerd.reading.peer_reads import (
    PEER_READS,
    STALE_S,
    PeerReads,
    ReadSlots,
    store_reads_at_once,
)
from streamerd.reading.totals import ReadTotals
from streamerd.settings.config import load_settings
from streamerd.state.commands import FetchBlock
from streamerd.state.events import AnyEvent, BlockFetched, LoadKey, ShardKey
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import NOTHING, Environments

BLOCK = 1 << 20
BLOCKS = 10
KEY = ShardKey("s3://bucket/model", "v1")


@pytest.mark.parametrize(
    ("connections", "from_store", "from_peers", "at_once"),
    [
        (32, 1, 0, 32),
        (32, 90, 0, 32),
        (32, 21, 64, 8),
        (32, 1, 64, 1),
        (128, 2, 64, 4),
        (1, 9, 9, 1),
    ],
)
def test_the_store_gets_its_part_of_the_connections(
    connections: int, from_store: int, from_peers: int, at_once: int
) -> None:
    assert store_reads_at_once(connections, from_store, from_peers) == at_once


def test_calls_begin_in_order_and_a_bounded_number_at_once() -> None:
    begun: list[int] = []
    slots = ReadSlots(lambda _: 2)
    for number in range(4):
        slots.begin(lambda number=number: begun.append(number))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    slots.begin(lambda: begun.append(-1), first=True)
    assert begun == [0, 1]
    slots.end()
    assert begun == [0, 1, -1]
    slots.end()
    assert (begun, slots.under_way, slots.count) == ([0, 1, -1, 2], 2, 3)


def test_a_crowd_of_calls_that_end_at_once_needs_no_deep_stack() -> None:
    begun: list[int] = []
    slots = ReadSlots(lambda _: 1)

    def call() -> None:
        begun.append(slots.under_way)
        slots.end()

    slots.begin(lambda: None)
    for _ in range(10_000):
        slots.begin(call)
    slots.end()
    assert begun == [1] * 10_000
    assert slots.count == 0


def test_searches_that_end_leave_the_store_a_larger_part() -> None:
    reads, begun = PeerReads(connections=8), []
    for _ in range(PEER_READS):
        reads.peers.begin(lambda: None)
    for number in range(16):
        reads.store.begin(lambda number=number: begun.append(number))  # type: ignore[misc]  # as above
    assert begun == [0, 1]
    for _ in range(PEER_READS - 16):
        reads.end_search()
    assert begun == [0, 1, 2, 3]
    for _ in range(16):
        reads.end_search()
    assert begun == list(range(8))


class Workers:
    """Stands for the workers: it keeps the jobs that it gets, and the test answers them."""

    def __init__(self) -> None:
        self.lending = None
        self.due: list[tuple[jobs.Fetch, Any]] = []

    def next_job(self) -> int:
        return len(self.due) + 1

    def submit(self, job: jobs.Fetch, answered: Any, *_: object, **__: object) -> None:
        self.due.append((job, answered))

    def of_store(self) -> list[jobs.Fetch]:
        return [job for job, _ in self.due if not job.peers]

    def answer(self, *, peers: bool, brought: bool) -> int:
        """Answer the first job of a stage; returns the number of its block."""
        place = next(at for at, (job, _) in enumerate(self.due) if job.peers == peers)
        job, answered = self.due.pop(place)
        if brought:
            answered(jobs.Fetched(job.job, 7, -1))
        else:
            answered(jobs.JobFailed(job.job, jobs.FROM_STORE, OWNER))
        return job.start // BLOCK


class World:
    """A daemon's reads of one object, with another member that is known."""

    def __init__(self) -> None:
        self.workers, self.events = Workers(), list[AnyEvent]()
        self.reads = PeerReads(connections=1)
        self.reads.totals.me, self.reads.totals.members = "a:1", frozenset({"a:1", "b:1"})
        self.reads.open()
        stored = StoredShard(KEY.uri, BLOCKS * BLOCK, KEY.identity, validated=True)
        room = MemoryRoom(64 << 30, None, 32 << 30)
        settings = load_settings({}, {"STREAMERD_BLOCK_SIZE": str(BLOCK)}, None, room)[0]
        self.fetches = Fetches(
            settings, cast("Any", self.workers), {KEY: Backing(stored, Checksums(BLOCKS))},
            Environments(), cast("Any", None), self.events.append, lambda *_: False,
            ReadTotals(), Remembered(1), self.reads,
        )  # fmt: skip

    def want(self, block: int) -> None:
        self.fetches.begin(FetchBlock(KEY, block, LoadKey("client", 1)), NOTHING, backed=True)

    def arrived(self) -> list[int]:
        return [event.block for event in self.events if isinstance(event, BlockFetched)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now_s = [100.0]
    loop = asyncio.new_event_loop()
    monkeypatch.setattr(loop, "time", lambda: now_s[0])
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    yield now_s
    loop.close()


def test_a_decision_that_waited_long_is_made_anew(clock: list[float]) -> None:
    """No peer has any of three blocks. A peer opens the third one meanwhile, and sends it."""
    world = World()
    for block in range(3):
        world.want(block)
        world.workers.answer(peers=True, brought=False)
    assert len(world.workers.of_store()) == 1
    clock[0] += STALE_S / 2
    assert world.workers.answer(peers=False, brought=True) == 0
    assert [job.start // BLOCK for job in world.workers.of_store()] == [1]
    clock[0] += STALE_S
    assert world.workers.answer(peers=False, brought=True) == 1
    assert not world.workers.of_store()
    assert not world.reads.from_store
    assert world.workers.answer(peers=True, brought=True) == 2
    assert world.arrived() == [0, 1, 2]
    assert world.reads.totals.store_reads == {OWNER: 2}
    assert (world.reads.totals.peer_blocks, world.reads.store.count) == (1, 0)


def test_a_second_search_that_finds_nothing_is_followed_by_the_store(clock: list[float]) -> None:
    """The repeated search goes before blocks that wait for their first turn, however late it is."""
    world = World()
    for block in range(3):
        world.want(block)
        world.workers.answer(peers=True, brought=False)
    clock[0] += 2 * STALE_S
    world.workers.answer(peers=False, brought=True)
    clock[0] += 2 * STALE_S
    # Both blocks that waited are searched for again, and the search for block 1 ends first.
    assert world.workers.answer(peers=True, brought=False) == 1
    assert [job.start // BLOCK for job in world.workers.of_store()] == [1]
    assert world.workers.answer(peers=True, brought=False) == 2
    assert world.workers.answer(peers=False, brought=True) == 1
    assert world.workers.answer(peers=False, brought=True) == 2
    assert world.arrived() == [0, 1, 2]
    assert world.reads.totals.store_reads == {OWNER: 3}
