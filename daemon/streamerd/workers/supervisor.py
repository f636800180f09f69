"""Starts fetch workers, hands them jobs, and starts them again when they die.

Runs in the daemon's asyncio loop. Jobs and answers are callbacks, not tasks: several thousand pass
in a second. Knows nothing of what jobs mean.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.contract.errors import StreamerError
from streamerd.workers.jobs import (
    Answer,
    AnyJob,
    CloseSlab,
    FrameBuffer,
    Lane,
    answer_decoder,
    frame,
    lane_of,
)

logger = logging.getLogger(__name__)

BACKOFF_S: Final = (0.1, 0.5, 2.0, 10.0)
"""Pauses before a worker's next starts; a worker that answered a job starts again from the
first."""

MAPPED_FROM_SLOTS: Final = 8
"""With so many threads, slabs are mapped even without huge pages: see `shm/slab_file.py`."""

_ISOLATED: Final = ("-I",) if sys.flags.isolated else ()
"""A daemon that ignores its environment's Python settings has workers that do."""

OnAnswer = Callable[[Answer | None], None]
"""Called with the answer, or None when the worker died before it gave one."""


class Worker(asyncio.Protocol):
    """One process and the channel to it."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._fleet = fleet
        self.number = number
        self.pending: dict[int, tuple[Lane, OnAnswer]] = {}
        self.busy = dict.fromkeys(Lane, 0)
        """How many of `pending` are in each lane."""
        self.failures = 0
        self.alive = False
        self._frames = FrameBuffer()
        self._transport: asyncio.WriteTransport | None = None
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, options: Sequence[str]) -> None:
        """Spawn the process. It needs no readiness: jobs wait in the channel."""
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, *_ISOLATED, "-m", "streamerd.workers.process"]
            command += ["--fd", str(theirs.fileno()), *options]
            try:
                # Not asyncio's subprocess: the end shows on the channel, no watcher is needed.
                self.process = subprocess.Popen(  # noqa: ASYNC220  spawning takes a millisecond
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        self._frames = FrameBuffer()
        await loop.create_unix_connection(lambda: self, sock=ours)

    @property
    def pid(self) -> int:
        return self.process.pid if self.process else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self.alive = True

    def data_received(self, data: bytes) -> None:
        for body in self._frames.feed(data):
            answer = answer_decoder.decode(body)
            self.failures = 0
            if answer.job in self.pending:
                lane, on_answer = self.pending.pop(answer.job)
                self.busy[lane] -= 1
                on_answer(answer)

    def connection_lost(self, _error: Exception | None) -> None:
        """The process ended, or closed its end: what it was asked will not be answered."""
        self.alive = False
        if self._fleet.stopping:  # `stop` sees to the process, and nobody awaits answers any more
            self.pending.clear()
            return
        if self.process is not None:
            self.process.kill()
            code = self.process.wait()
            self._fleet.worker_ended(self, code)
        pending, self.pending = self.pending, {}
        self.busy = dict.fromkeys(Lane, 0)
        for _, on_answer in pending.values():
            on_answer(None)

    def send(self, job: AnyJob, on_answer: OnAnswer) -> None:
        assert self._transport is not None
        lane = lane_of(job)
        self.pending[job.job] = lane, on_answer
        self.busy[lane] += 1
        self._transport.write(frame(job))

    def close(self) -> None:
        """Close the channel, which ends the process."""
        if self._transport is not None:
            self._transport.close()


class Fleet:
    """A fixed number of workers, each with a few threads.

    Args:
        workers: processes.
        threads: of each, that read files.
        log_level: of the workers.
        backoff_s: see `BACKOFF_S`.
        mapped: fill slabs through mappings; None decides by the number of threads.
        connections: to stores, of all workers together.
    """

    def __init__(
        self,
        workers: int,
        threads: int,
        log_level: str = "INFO",
        backoff_s: tuple[float, ...] = BACKOFF_S,
        *,
        mapped: bool | None = None,
        connections: int = 32,
    ) -> None:
        mapped = workers * threads >= MAPPED_FROM_SLOTS if mapped is None else mapped
        self._threads = threads
        self._options = ["--threads", str(threads), "--log-level", log_level]
        self._options += ["--connections", str(connections), *(["--mapped"] if mapped else [])]
        self._backoff_s = backoff_s
        self._workers = [Worker(self, number) for number in range(workers)]
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._starts: set[asyncio.Task[None]] = set()
        """The only strong references that these tasks have: without one a task may vanish."""
        self._waiting: list[tuple[AnyJob, OnAnswer]] = []
        self._jobs = 0
        self.stopping = False
        """From the call of `stop` on: nothing is answered, nothing is started."""
        self.restarts = 0

    @property
    def slots(self) -> int:
        """Files that can be read at once."""
        return len(self._workers) * self._threads

    @property
    def pids(self) -> list[int]:
        """Processes that run now."""
        return [worker.pid for worker in self._workers if worker.alive]

    def next_job(self) -> int:
        """A number for a new job."""
        self._jobs += 1
        return self._jobs

    async def start(self) -> None:
        """Spawn all workers and wait until each has answered.

        Raises:
            StreamerError: a process could not be made, or ended before it answered.
        """
        ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            for worker in self._workers:
                await worker.start(self._options)
        except OSError as error:
            raise StreamerError(f"cannot start a fetch worker: {error}") from error
        self.broadcast(lambda job: CloseSlab(job, ""), lambda: ready.set_result(True))
        await ready
        if self.restarts:
            raise StreamerError("a fetch worker ended at once; the lines above say why")

    def submit(self, job: AnyJob, on_answer: OnAnswer) -> None:
        """Give a job to the worker with the fewest of its kind, or to the next that starts."""
        if self.stopping:
            return
        alive = [worker for worker in self._workers if worker.alive]
        if alive:
            lane = lane_of(job)
            min(alive, key=lambda worker: worker.busy[lane]).send(job, on_answer)
        else:
            self._waiting.append((job, on_answer))

    def broadcast(self, make_job: Callable[[int], AnyJob], on_done: Callable[[], None]) -> None:
        """Give a job to every live worker and call `on_done` when none has it any more."""
        if self.stopping:
            return
        alive = [worker for worker in self._workers if worker.alive]
        left = len(alive)

        def answered(_answer: Answer | None) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                on_done()

        for worker in alive:
            worker.send(make_job(self.next_job()), answered)
        if not alive:
            on_done()

    def worker_ended(self, worker: Worker, code: int) -> None:
        """Called by a worker whose process is gone."""
        if self.stopping:
            return
        self.restarts += 1
        pause_s = self._backoff_s[min(worker.failures, len(self._backoff_s) - 1)]
        worker.failures += 1
        logger.warning(
            "worker died number=%d pid=%d exit=%d restart_in_s=%g",
            worker.number, worker.pid, code, pause_s,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        self._timers[worker.number] = loop.call_later(pause_s, self._restart, worker)

    def _restart(self, worker: Worker) -> None:
        task = asyncio.get_running_loop().create_task(self._start_again(worker))
        self._starts.add(task)
        task.add_done_callback(self._starts.discard)

    async def _start_again(self, worker: Worker) -> None:
        try:
            await worker.start(self._options)
        except OSError as error:
            logger.error("worker not started number=%d error=%s", worker.number, error)
            self.worker_ended(worker, -1)
            return
        waiting, self._waiting = self._waiting, []
        for job, on_answer in waiting:
            self.submit(job, on_answer)

    async def stop(self, grace_s: float = 5.0) -> None:
        """End all workers: close their channels, then kill what is left after `grace_s`.

        Callbacks of jobs under way are dropped.
        """
        self.stopping = True
        for timer in self._timers.values():
            timer.cancel()
        for start in self._starts:
            start.cancel()
        for worker in self._workers:
            worker.close()
        loop = asyncio.get_running_loop()
        # Side by side: workers that hang together are waited for once, not one after the other.
        ends = (
            loop.run_in_executor(None, _reap, worker.process, grace_s)
            for worker in self._workers
            if worker.process is not None
        )
        await asyncio.gather(*ends)


def _reap(process: subprocess.Popen[bytes], grace_s: float) -> None:
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
