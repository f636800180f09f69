"""Backs neighbouring blocks with memory, several in one call, before they are read.

To make huge pages of shared memory, the kernel first drains the page lists of every processor, for
one caller at a time. That takes 0.6 ms on sixteen busy processors, whatever the size of the range.
One call for each block limited all workers together to 13 GB/s there. The core starts fetches of a
shard's blocks in runs (`state/load.py`). The blocks of a run that start in one turn are backed by
one job here, and then read by as many workers as there are blocks. A job backs one run at most, as
its blocks are read only when all of them are backed. A load's first turn starts as many blocks as
there are slots; one job for all of a shard's made the first reads 80 ms late (16 processors, 512
MiB a shard). Runs in the daemon's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.layout import block_span
from streamerd.reading.backing import Backing
from streamerd.state.commands import FetchBlock
from streamerd.state.events import AnyEvent, FailureKind, FetchFailed, ShardKey
from streamerd.state.load import RUN_BLOCKS
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import Environments, Sent
from streamerd.workers.in_daemon.supervisor import Workers

Due = tuple[FetchBlock, Sent]
"""A block to read, and the environment that the load's client had sent when the core decided on
it. The load may have ended when the read begins."""


class Begin(Protocol):
    """Has a worker read a block; `Fetches.begin` is one."""

    def __call__(self, command: FetchBlock, sent: Sent, *, backed: bool) -> None: ...


class Runs:
    """Takes the blocks to read of one turn, and has them read once they are backed.

    Args:
        block_bytes: size of a block.
        workers: the workers that back memory.
        backings: the backings of the core's shards.
        environments: the environments that loads' clients sent.
        begin: has a block read.
        post: gives an event to the core.
    """

    def __init__(
        self,
        block_bytes: int,
        workers: Workers,
        backings: Mapping[ShardKey, Backing],
        environments: Environments,
        begin: Begin,
        post: Callable[[AnyEvent], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._block_bytes = block_bytes
        self._workers = workers
        self._backings = backings
        self._environments = environments
        self._begin_read = begin
        self._post = post
        self._due: list[Due] = []

    def add(self, command: FetchBlock) -> None:
        """Have a block read; `after_turn` begins it."""
        self._due.append((command, self._environments.sent(command.credentials_of)))

    def after_turn(self) -> None:
        """Begin the reads that this turn decided on."""
        if not self._due:
            return
        due, self._due = self._due, []
        for run in runs_of(due):
            if len(run) == 1 or self._backings[run[0][0].shard].slab_error is not None:
                self._begin(run, backed=False)
            else:
                self._back(run)

    def _back(self, run: Sequence[Due]) -> None:
        first, last = run[0][0], run[-1][0]
        backing = self._backings[first.shard]
        size_bytes = backing.stored.size_bytes
        start, _ = block_span(first.block, size_bytes, self._block_bytes)
        _, stop = block_span(last.block, size_bytes, self._block_bytes)
        job = jobs.Back(self._workers.next_job(), backing.slab, start, stop)
        self._workers.submit(job, partial(self._backed, run))

    def _backed(self, run: Sequence[Due], answer: jobs.Answer | None) -> None:
        match answer:
            case jobs.Finished():
                self._begin(run, backed=True)
            case jobs.JobFailed():
                kind = FailureKind.NO_SPACE if answer.no_space else FailureKind.ERROR
                self._fail(run, kind, answer.code, answer.message)
            case _:
                text = f"backing {run[0][0].shard.uri} with memory ended a fetch worker"
                self._fail(run, FailureKind.WORKER_LOST, StreamerError.code, text)

    def _fail(self, run: Sequence[Due], kind: FailureKind, code: str, text: str) -> None:
        at_s = self._loop.time()
        for command, _ in run:
            self._post(FetchFailed(at_s, command.shard, command.block, kind, code, text))

    def _begin(self, run: Sequence[Due], *, backed: bool) -> None:
        for command, sent in run:
            self._begin_read(command, sent, backed=backed)


def runs_of(due: Sequence[Due]) -> list[list[Due]]:
    """Group reads into runs of at most `RUN_BLOCKS` neighbours, in the order of each's first."""
    runs: list[list[Due]] = []
    last: dict[ShardKey, list[Due]] = {}
    for each in due:
        command = each[0]
        run = last.get(command.shard)
        follows = run is not None and run[-1][0].block + 1 == command.block
        if run is not None and follows and len(run) < RUN_BLOCKS:
            run.append(each)
        else:
            last[command.shard] = run = [each]
            runs.append(run)
    return runs
