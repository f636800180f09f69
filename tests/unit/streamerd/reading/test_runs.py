"""Neighbouring blocks that a turn begins are backed by one job, and read when that is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.in_loop import in_loop

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import StoredShard
from streamerd.reading.backing import Backing
from streamerd.reading.checksums import Checksums
from streamerd.reading.runs import Runs, runs_of
from streamerd.state.commands import FetchBlock
from streamerd.state.events import AnyEvent, FailureKind, FetchFailed, LoadKey, ShardKey
from streamerd.state.load import RUN_BLOCKS
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import NOTHING, Environments, Sent

LOAD = LoadKey("a", 1)
A, B = ShardKey("s3://b/a", "etag"), ShardKey("s3://b/b", "etag")
BLOCK = 64 << 10
SIZE = 9 * BLOCK + 100


class Workers:
    """Keeps the jobs that it gets; the test answers them."""

    def __init__(self) -> None:
        self.asked: list[tuple[jobs.Back, Callable[[Any], None]]] = []

    def next_job(self) -> int:
        return len(self.asked) + 1

    def submit(self, job: jobs.Back, on_answer: Callable[[Any], None]) -> None:
        self.asked.append((job, on_answer))


class Turn:
    """The runs of two shards, and the outcome for each block."""

    def __init__(self) -> None:
        self.workers = Workers()
        self.read: list[tuple[FetchBlock, bool]] = []
        self.environments = Environments()
        self.sent: list[Sent] = []
        self.posted: list[AnyEvent] = []
        self.backings = {
            key: Backing(StoredShard(key.uri, SIZE, "etag"), Checksums(10), "/slab", slab)
            for slab, key in enumerate((A, B))
        }
        self.runs = Runs(
            BLOCK,
            self.workers,  # type: ignore[arg-type]
            self.backings,
            self.environments,
            self._begin,
            self.posted.append,
        )

    def _begin(self, command: FetchBlock, sent: Sent, *, backed: bool) -> None:
        self.read.append((command, backed))
        self.sent.append(sent)

    def begin(self, *blocks: tuple[ShardKey, int]) -> None:
        for shard, block in blocks:
            self.runs.add(FetchBlock(shard, block, LOAD))
        assert not self.read, "nothing is begun before the turn is over"
        self.runs.after_turn()


@in_loop
async def test_a_run_is_backed_and_then_read_block_by_block() -> None:
    turn = Turn()
    turn.begin((A, 7), (B, 0), (A, 8), (A, 9))
    assert turn.read == [(FetchBlock(B, 0, LOAD), False)], "one block alone makes its own memory"
    ((job, answered),) = turn.workers.asked
    assert job == jobs.Back(1, 0, 7 * BLOCK, SIZE)
    turn.runs.after_turn()
    assert len(turn.workers.asked) == 1, "a turn begins what it decided, once"
    answered(jobs.Finished(1))
    assert turn.read[1:] == [(FetchBlock(A, block, LOAD), True) for block in (7, 8, 9)]
    assert not turn.posted


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (jobs.JobFailed(1, "memory-limit", "full", no_space=True), FailureKind.NO_SPACE),
        (jobs.JobFailed(1, "internal", "broken"), FailureKind.ERROR),
        (None, FailureKind.WORKER_LOST),
    ],
    ids=["full", "broken", "worker died"],
)
@in_loop
async def test_what_cannot_be_backed_fails_block_by_block(
    answer: jobs.JobFailed | None, kind: FailureKind
) -> None:
    turn = Turn()
    turn.begin((A, 1), (A, 2))
    ((_, answered),) = turn.workers.asked
    answered(answer)
    assert not turn.read
    failed = [event for event in turn.posted if isinstance(event, FetchFailed)]
    assert [(event.shard, event.block, event.kind) for event in failed] == [
        (A, 1, kind),
        (A, 2, kind),
    ]
    assert all(event.message for event in failed)


@in_loop
async def test_blocks_are_read_with_what_the_client_had_sent_when_the_core_decided() -> None:
    turn = Turn()
    turn.environments.put(LOAD, {"KEY": "1"})
    turn.begin((A, 1), (A, 2))
    turn.environments.keep_only(())
    ((_, answered),) = turn.workers.asked
    answered(jobs.Finished(1))
    assert [sent.environment for sent in turn.sent] == [{"KEY": "1"}] * 2


@in_loop
async def test_a_shard_without_a_slab_is_left_to_the_reader_that_tells_why() -> None:
    turn = Turn()
    turn.backings[A].slab_error = StreamerError("no slab")
    turn.begin((A, 1), (A, 2))
    assert [backed for _, backed in turn.read] == [False, False]
    assert not turn.workers.asked


@in_loop
async def test_a_first_turn_of_many_blocks_is_backed_run_by_run() -> None:
    """The first blocks can be read as soon as their own run is backed."""
    turn = Turn()
    turn.begin(*((A, block) for block in range(9)))
    backed = [(job.start // BLOCK, job.stop // BLOCK) for job, _ in turn.workers.asked]
    assert backed == [(0, 4), (4, 8)]
    assert [(command.block, is_backed) for command, is_backed in turn.read] == [(8, False)]
    _, answered = turn.workers.asked[1]
    answered(jobs.Finished(2))
    assert [command.block for command, _ in turn.read] == [8, 4, 5, 6, 7]


@given(st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 9)), unique=True))
def test_runs_hold_each_block_once_in_order(blocks: list[tuple[ShardKey, int]]) -> None:
    commands = [FetchBlock(shard, block, LOAD) for shard, block in blocks]
    due = [(command, NOTHING) for command in commands]
    runs = runs_of(due)
    found = [each for run in runs for each in run]
    assert sorted(map(due.index, found)) == list(range(len(due)))
    for run in runs:
        assert len(run) <= RUN_BLOCKS
        assert len({command.shard for command, _ in run}) == 1
        first = run[0][0].block
        assert [command.block for command, _ in run] == list(range(first, first + len(run)))
