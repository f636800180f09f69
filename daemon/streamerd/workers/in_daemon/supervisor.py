"""Starts the fetch workers, hands them jobs, and starts them again when they die or hang.

Runs in the daemon's asyncio loop. Answers are given to callbacks, not to tasks, since several
thousand come in a second. This module does not know the meaning of jobs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Final

import msgspec

from streamer_client.contract.errors import StreamerError
from streamerd.workers.in_daemon.lending import Lending
from streamerd.workers.in_daemon.spawning import UNKNOWN_CODE, Spawner
from streamerd.workers.in_daemon.worker import OnAnswer, Order, Worker
from streamerd.workers.jobs import Answer, AnyJob, CloseSlab
from streamerd.workers.lanes import lane_of

__all__ = ["OnAnswer", "Workers"]

logger = logging.getLogger(__name__)

BACKOFF_S: Final = (0.1, 0.5, 2.0, 10.0)
"""Pauses in seconds before a worker that died is started again, one for each death in a row. After
an answer to a job, the next pause is the first one again."""

MAPPED_FROM_SLOTS: Final = 8
"""If all workers together have at least this many threads, slabs are mapped even without huge
pages; see `shm/slab_file.py`."""

LOST_THREADS: Final = 3
"""A worker that lost this many threads is replaced, since each may keep a file and a buffer for
ever."""

LOOK_S: Final = 0.1
"""How often the time limits of jobs are checked, while any job has one."""

END_S: Final = 1.0
"""Seconds that this module waits for the end of a killed process. A process that is stuck in the
kernel is replaced before it has ended."""


class Workers:
    """A fixed number of workers, each with a few threads.

    Args:
        workers: how many processes.
        threads: how many threads of each process read files.
        log_level: the log level of the workers.
        backoff_s: see `BACKOFF_S`.
        mapped: whether to fill slabs through mappings; None decides by the number of threads.
        connections: how many reads from stores all workers together make at once, at most.
        log_format: the log format of the workers.

    Attributes:
        lending: lends the workers slabs and files, by the handles that jobs name.
        stopping: whether `stop` was called; from then on nothing is answered or started.
        restarts: how many workers died and were started again.
        lost_threads: how many threads were given up since the start, whose jobs were answered as
            hung.
        retired: how many workers were replaced because they had lost too many threads.
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
        log_format: str = "text",
    ) -> None:
        mapped = workers * threads >= MAPPED_FROM_SLOTS if mapped is None else mapped
        self._threads = threads
        options = ["--threads", str(threads), "--log-level", log_level]
        options += ["--log-format", log_format]
        options += ["--connections", str(connections), *(["--mapped"] if mapped else [])]
        self._options = tuple(options)
        self._backoff_s = backoff_s
        self.lending = Lending()
        self.spawner = Spawner()
        self._workers = [Worker(self, number) for number in range(workers)]
        self._retiring: list[Worker] = []
        """Workers that were replaced and still carry out their last jobs."""
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Strong references to the running tasks; asyncio itself has only weak ones."""
        self._looking: asyncio.TimerHandle | None = None
        self._waiting: list[Order] = []
        self._jobs = 0
        self._told: msgspec.Struct | None = None
        """The message that each worker gets when it starts; None for none."""
        self.stopping = False
        self.restarts = 0
        self.lost_threads = 0
        self.retired = 0

    @property
    def slots(self) -> int:
        """Number of files that can be read at once."""
        return len(self._workers) * self._threads

    @property
    def pids(self) -> list[int]:
        """Pids of the processes that run now and are given jobs."""
        return [worker.process.pid for worker in self._workers if worker.alive and worker.process]

    def next_job(self) -> int:
        """A number for a new job."""
        self._jobs += 1
        return self._jobs

    async def start(self) -> None:
        """Spawn all workers and wait until each has answered.

        This must come before the daemon has any client's file open; see `spawner.py`.

        Raises:
            StreamerError: a process could not be made, or ended before it answered.
        """
        ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.gather(*(worker.start(self._options) for worker in self._workers))
        except OSError as error:
            raise StreamerError(f"cannot start a fetch worker: {error}") from error
        self.broadcast(lambda job: CloseSlab(job, 0), lambda: ready.set_result(True))
        await ready
        if self.restarts or not all(worker.alive for worker in self._workers):
            raise StreamerError("a fetch worker ended at once; the lines above say why")

    # --- jobs -------------------------------------------------------------------------------------

    def submit(
        self,
        job: AnyJob,
        on_answer: OnAnswer,
        fds: tuple[int, ...] = (),
        limit_s: float | None = None,
    ) -> None:
        """Give a job to the worker with the fewest jobs of its kind, or to the next that starts.

        Args:
            job: what to do.
            on_answer: called once with the answer, but never within this call and not after `stop`.
            fds: descriptors for this job alone (`Examine`, `Compare`). The caller keeps them open
                until the answer; the worker closes its copies.
            limit_s: seconds that a thread may work on the job before it is answered as `JobFailed`
                with `hung`; None for no limit. If the job's bytes go straight into a slab, its
                whole worker is then killed, and the worker's other jobs are answered with None.
        """
        if not self.stopping:
            self._give(Order(job, on_answer, lane_of(job), fds, limit_s))

    def _give(self, order: Order) -> None:
        alive = [worker for worker in self._workers if worker.alive]
        if not alive:
            self._waiting.append(order)
            return
        lane = order.lane
        min(alive, key=lambda worker: worker.busy[lane]).submit(order)
        if order.limit_s is not None and self._looking is None:
            self._look_again()

    def broadcast(self, make_job: Callable[[int], AnyJob], on_done: Callable[[], None]) -> None:
        """Give a job to every live worker, and call `on_done` once all have answered or ended."""
        if self.stopping:
            return
        alive = [worker for worker in (*self._workers, *self._retiring) if worker.alive]
        left = len(alive)

        def answered(_answer: Answer | None) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                on_done()

        for worker in alive:
            job = make_job(self.next_job())
            worker.submit(Order(job, answered, lane_of(job)))
        if not alive:
            on_done()

    def _look_again(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = None
        looks = [worker.look_at_limits() for worker in (*self._workers, *self._retiring)]
        if any(looks):
            self._look_again()

    def tell(self, message: msgspec.Struct) -> None:
        """Send a message to all workers and to each that starts later; it replaces the last."""
        self._told = message
        for worker in self._workers:
            if worker.alive:
                worker.send(message)

    # --- ends -------------------------------------------------------------------------------------

    def thread_lost(self, worker: Worker, limit_s: float) -> None:
        """Called by a worker that gave a thread up."""
        self.lost_threads += 1
        if worker.lost_threads < LOST_THREADS or worker not in self._workers or self.stopping:
            return
        self.retired += 1
        logger.error(
            "event=worker_retired number=%d pid=%d lost_threads=%d",
            worker.number, worker.process.pid if worker.process else 0, worker.lost_threads,
        )  # fmt: skip
        fresh = Worker(self, worker.number)
        self._workers[worker.number] = fresh
        self._retiring.append(worker)
        self._start_soon(fresh)
        self._task(self._see_off(worker, limit_s))

    async def _see_off(self, worker: Worker, limit_s: float) -> None:
        """Kill a replaced worker once it has no job left, or after `limit_s`."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + limit_s
        while worker.alive and not worker.idle and loop.time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)  # retired workers are rare, so polling costs nothing
        worker.abandon()

    def worker_lost(self, worker: Worker) -> None:
        """Called by a worker whose process is gone, or was killed."""
        if worker in self._retiring:
            self._retiring.remove(worker)
        elif not self.stopping:
            self._task(self._await_end(worker))

    async def _await_end(self, worker: Worker) -> None:
        assert worker.process is not None
        done, _ = await asyncio.wait([worker.process.ended], timeout=END_S)
        code = worker.process.ended.result() if done else UNKNOWN_CODE
        self.restarts += 1
        self._start_later(worker, worker.process.pid, code)

    def _start_later(self, worker: Worker, pid: int, code: int) -> None:
        if self.stopping:
            return
        pause_s = self._backoff_s[min(worker.failures, len(self._backoff_s) - 1)]
        worker.failures += 1
        logger.warning(
            "event=worker_died number=%d pid=%d exit=%d restart_in_s=%g",
            worker.number, pid, code, pause_s,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        self._timers[worker.number] = loop.call_later(pause_s, self._start_soon, worker)

    def _start_soon(self, worker: Worker) -> None:
        self._task(self._start_again(worker))

    async def _start_again(self, worker: Worker) -> None:
        try:
            await worker.start(self._options)
            if self._told is not None:
                worker.send(self._told)
        except (OSError, StreamerError) as error:
            logger.error("event=worker_not_started number=%d error=%s", worker.number, error)
            self._start_later(worker, 0, UNKNOWN_CODE)
            return
        waiting, self._waiting = self._waiting, []
        for order in waiting:
            self._give(order)

    def _task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, grace_s: float = 5.0) -> None:
        """End all workers: close their channels, then kill what is left after `grace_s`.

        Callbacks of jobs under way are dropped.
        """
        self.stopping = True
        for timer in (*self._timers.values(), *([self._looking] if self._looking else [])):
            timer.cancel()
        self._close_all()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._close_all()  # a task may have started a worker before it was cancelled
        await self.spawner.stop(grace_s)

    def _close_all(self) -> None:
        for worker in (*self._workers, *self._retiring):
            worker.close()
