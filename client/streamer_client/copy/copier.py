"""The threads that carry out a copy's plan.

Owns a few copying threads. Each takes a block's job, waits for the block, copies from it and marks
it consumed. The caller's thread plans, submits jobs and collects finished ones; an error in a
copying thread is raised in the caller's thread.
"""

from __future__ import annotations

import atexit
import queue
import weakref
from collections.abc import Iterator
from typing import Any, Final, Generic, Self, TypeVar

from streamer_client.copy.crew import Crew
from streamer_client.copy.destination import Target
from streamer_client.copy.engines import ARRIVED, CopyEngine
from streamer_client.copy.feed import Feed
from streamer_client.copy.plan import BlockJob

JOBS_PER_THREAD: Final = 4
"""How many jobs may be unfinished for each thread. The thread copies one, and another waits so that
the thread does not idle while the caller plans. The bytes of two more are still on their way to a
device."""

T = TypeVar("T", bound=Target)

_living: weakref.WeakSet[Copier[Any]] = weakref.WeakSet()


class Copier(Generic[T]):
    """Copies the blocks of one pass. A context manager: leaving it ends the pass and the threads.

    Args:
        feed: hands out the blocks.
        number: number of the running pass.
        engine: puts bytes into destinations; the copier closes it.
        most_blocks: how many blocks the pass has at most; no more threads than that are started.
    """

    def __init__(self, feed: Feed, number: int, engine: CopyEngine, most_blocks: int) -> None:
        self._feed = feed
        self._number = number
        self._engine = engine
        self._jobs: queue.SimpleQueue[BlockJob[T] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[tuple[BlockJob[T], int] | BaseException] = (
            queue.SimpleQueue()
        )
        self._outstanding = 0
        self._closed = False
        self._crew_size = max(1, min(engine.threads, most_blocks))
        self._most_jobs = JOBS_PER_THREAD * self._crew_size
        self._crew = Crew(self._work, self._crew_size, "streamer-copy")
        _living.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the pass and the threads; nothing is copied after this returns. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._feed.end(self._number)
        for _ in range(self._crew_size):
            self._jobs.put(None)
        self._crew.join()
        self._engine.close()

    def submit(self, job: BlockJob[T]) -> Iterator[T]:
        """Hand a job to the threads, after waiting while too many jobs are unfinished.

        This is a generator: the job is handed over only when it is iterated to its end.

        Yields:
            Destinations that earlier jobs completed meanwhile.
        """
        while self._outstanding >= self._most_jobs:
            yield from self.collect()
        self._outstanding += 1
        self._jobs.put(job)

    def collect(self) -> Iterator[T]:
        """Wait for one job to finish.

        Yields:
            The destinations that it completed.

        Raises:
            FeedClosed: another thread closed the feed, or began another pass.
            StreamerError: the block could not be read, or not be copied.
        """
        done = self._finished.get()
        self._outstanding -= 1
        if isinstance(done, BaseException):
            raise done
        job, ticket = done
        self._engine.settle(ticket)
        for run in job.runs:
            for piece in run.pieces:
                piece.destination.left_bytes -= piece.stop - piece.start
                if piece.destination.left_bytes == 0:
                    yield piece.destination

    def drain(self) -> Iterator[T]:
        """Wait for all jobs to finish; yields the destinations that they completed."""
        while self._outstanding:
            yield from self.collect()

    def _work(self) -> None:
        self._engine.enter()
        while (job := self._jobs.get()) is not None:
            try:
                ticket = self._carry_out(job)
            except BaseException as error:  # noqa: BLE001  raised in the caller's thread
                self._finished.put(error)
            else:
                self._finished.put((job, ticket))
            del job  # otherwise destinations live until the next job comes
        self._engine.leave()

    def _carry_out(self, job: BlockJob[T]) -> int:
        self._feed.wait(self._number, job.shard, job.block)
        ticket = ARRIVED
        for run in job.runs:
            ticket = max(ticket, self._engine.copy(self._feed, job.shard, run))
        self._feed.consumed(self._number, job.shard, job.block)
        return ticket


@atexit.register
def _close_living() -> None:
    """End unfinished passes at the interpreter's exit, while their threads can still run."""
    for copier in list(_living):
        copier.close()
