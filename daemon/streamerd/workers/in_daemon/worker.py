"""One fetch worker as the daemon sees it: its process, the channel to it, the jobs that it has.

Runs in the daemon's loop. `supervisor.py` decides which worker gets a job, and what follows when a
worker ends. This module does not know the meaning of jobs.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec

from streamer_client.contract.errors import StreamerError
from streamerd.workers.frames import frame
from streamerd.workers.in_daemon.channel import Channel
from streamerd.workers.in_daemon.lending import Lending
from streamerd.workers.in_daemon.spawning import Process, Spawner
from streamerd.workers.jobs import (
    Answer,
    AnyJob,
    GiveUp,
    JobFailed,
    StillGoing,
    Stuck,
    answer_decoder,
    hung,
)
from streamerd.workers.lanes import WorkerLane, subject_of

logger = logging.getLogger(__name__)

OnAnswer = Callable[[Answer | None], None]
"""Called with the answer, or None when the worker died before it gave one."""


@dataclass(slots=True)
class Order:
    """A job that was given to a worker. One is made for each block, so it must be small."""

    job: AnyJob
    on_answer: OnAnswer
    lane: WorkerLane
    fds: tuple[int, ...] = ()
    """Descriptors for this job alone; the caller keeps them open until the job is answered."""
    limit_s: float | None = None
    due_s: float = 0.0
    """The time at which the job is given up or, if that is impossible, the whole worker."""
    asked: bool = False
    """Whether the worker was told to give the job up and has not answered that yet."""


class Owner(Protocol):
    """The set of workers that a worker belongs to, as the worker sees it."""

    lending: Lending
    spawner: Spawner

    def worker_lost(self, worker: Worker) -> None:
        """Hear that a process is gone or was killed; called before its jobs are answered."""
        ...

    def thread_lost(self, worker: Worker, limit_s: float) -> None:
        """Hear that a worker gave a thread up."""
        ...


class Worker:
    """One worker: the process that runs under its number now, and after its death the next one."""

    def __init__(self, owner: Owner, number: int) -> None:
        self._owner = owner
        self.number = number
        self.busy = dict.fromkeys(WorkerLane, 0)
        """Number of unanswered jobs in each lane."""
        self.alive = False
        """Whether the worker takes jobs."""
        self.failures = 0
        """Number of the worker's deaths since its last answer."""
        self.lost_threads = 0
        self.process: Process | None = None
        self._pending: dict[int, Order] = {}
        self._limited = 0
        """How many of the pending jobs have a time limit."""
        self._channel: Channel | None = None

    @property
    def idle(self) -> bool:
        """Whether the worker has no unanswered job."""
        return not self._pending

    async def start(self, options: tuple[str, ...]) -> None:
        """Spawn the process. Its jobs wait in the channel until it is ready.

        Raises:
            OSError: the worker could not be started.
            StreamerError: the process that starts workers ended.
        """
        ours, theirs = socket.socketpair()
        try:
            self.process = await self._owner.spawner.spawn(theirs, options)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.lost_threads = 0
        self._channel = Channel(ours, self._received, self.abandon)
        self._owner.lending.joined(self)
        self.alive = True

    # --- Borrower ---------------------------------------------------------------------------------

    def send(self, message: msgspec.Struct, fds: tuple[int, ...] = ()) -> None:
        """See `lending.Borrower`."""
        if self._channel is not None:
            self._channel.send(frame(message, len(fds)), fds)

    def withdraw(self, fds: tuple[int, ...]) -> None:
        """See `lending.Borrower`; a job that still waits to be sent with one of `fds` fails."""
        if self._channel is None:
            return
        for number in self._channel.withdraw(fds):
            if number:
                text = "its descriptors were taken back before a worker had them"
                asyncio.get_running_loop().call_soon(
                    self._answer, JobFailed(number, StreamerError.code, text)
                )

    # --- jobs -------------------------------------------------------------------------------------

    def submit(self, order: Order) -> None:
        """Send a job, after the descriptors of slabs and files that it needs."""
        assert self._channel is not None
        job = order.job
        if order.limit_s is not None:
            self._limited += 1
            order.due_s = _now_s() + order.limit_s
        self._pending[job.job] = order
        self.busy[order.lane] += 1
        sent = self._owner.lending.supply(self, job)
        self._channel.send(frame(sent, len(order.fds)), order.fds, job.job)

    def _received(self, body: bytes) -> None:
        reply = answer_decoder.decode(body)
        match reply:
            case StillGoing():
                order = self._pending.get(reply.job)
                if order is not None:
                    order.asked = False
                    order.due_s = _now_s() + reply.left_s
            case Stuck():
                if reply.job in self._pending:
                    self.abandon()
            case _:
                self.failures = 0
                self._answer(reply)

    def _answer(self, answer: Answer) -> None:
        order = self._pending.pop(answer.job, None)
        if order is None:
            return
        self.busy[order.lane] -= 1
        if order.limit_s is not None:
            self._limited -= 1
            if isinstance(answer, JobFailed) and answer.hung:
                self.lost_threads += 1
                self._owner.thread_lost(self, order.limit_s)
        order.on_answer(answer)

    def look_at_limits(self) -> bool:
        """Have the worker give up jobs that were not answered in time.

        Returns:
            Whether any job with a time limit is left, so that this must be called again.
        """
        if not self._limited:
            return False
        now_s = _now_s()
        for order in list(self._pending.values()):
            if order.limit_s is None or now_s < order.due_s:
                continue
            if order.asked:  # not even the worker's main thread has answered
                self.abandon()
                return False
            order.asked = True
            order.due_s = now_s + order.limit_s
            self.send(GiveUp(order.job.job, order.limit_s))
        return True

    # --- ends -------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Kill the process; jobs due to be given up are answered as hung, others with None."""
        if self._channel is None:
            return
        self.close()
        if self.process is not None:
            self.process.kill()
        owed, self._pending = list(self._pending.values()), {}
        self.busy = dict.fromkeys(WorkerLane, 0)
        self._limited = 0
        self._owner.worker_lost(self)
        for order in owed:
            if order.asked:
                answer = hung(order.job.job, subject_of(order.job), order.limit_s or 0.0)
                order.on_answer(answer)
            else:
                order.on_answer(None)

    def close(self) -> None:
        """Close the channel, which ends a process that is not stuck. Idempotent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
            self.alive = False
            self._owner.lending.left(self)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
