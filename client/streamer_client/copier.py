"""The threads that carry a copy's plan out.

Owns a few threads that each take a block's job, wait for the block, copy and give it back. The
caller's thread plans, submits, and collects what is finished; errors of the threads are raised
there.
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Final, Self

from streamer_client.block_jobs import BlockJob
from streamer_client.copy_engine import CopyEngine
from streamer_client.destination import Destination
from streamer_client.feed import Feed

JOBS_PER_THREAD: Final = 2
"""One being copied, one waiting, so that no thread idles while the caller plans."""

Job = BlockJob[Destination]

_living: weakref.WeakSet[Copier] = weakref.WeakSet()


class Copier:
    """Copies the blocks of one pass. A context manager: leaving it ends pass and threads.

    Args:
        feed: where blocks come from.
        number: the running pass.
        engine: how bytes are put into destinations.
    """

    def __init__(self, feed: Feed, number: int, engine: CopyEngine) -> None:
        self._feed = feed
        self._number = number
        self._engine = engine
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[Job | BaseException] = queue.SimpleQueue()
        self._outstanding = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"streamer-copy-{place}", daemon=True)
            for place in range(max(1, feed.threads))
        ]
        self._most_jobs = JOBS_PER_THREAD * len(self._threads)
        for thread in self._threads:
            thread.start()
        _living.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the pass and the threads. Idempotent."""
        threads, self._threads = self._threads, []
        if not threads:
            return
        self._feed.end(self._number)
        for _thread in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join()

    def submit(self, job: Job) -> Iterator[Destination]:
        """Hand a job to the threads; yields destinations that others have completed meanwhile.

        Must be iterated to its end.
        """
        while self._outstanding >= self._most_jobs:
            yield from self.collect()
        self._outstanding += 1
        self._jobs.put(job)

    def collect(self) -> Iterator[Destination]:
        """Wait for one job to finish; yields the destinations that it completed.

        Raises:
            FeedClosed: the pass was ended by somebody else.
            StreamerError: the block could not be had.
        """
        done = self._finished.get()
        self._outstanding -= 1
        if isinstance(done, BaseException):
            raise done
        for run in done.runs:
            for piece in run.pieces:
                piece.destination.left_bytes -= piece.stop - piece.start
                if piece.destination.left_bytes == 0:
                    yield piece.destination

    def drain(self) -> Iterator[Destination]:
        """Wait for all jobs; yields the destinations completed."""
        while self._outstanding:
            yield from self.collect()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._carry_out(job)
            except BaseException as error:  # noqa: BLE001  raised in the caller's thread
                self._finished.put(error)
            else:
                self._finished.put(job)

    def _carry_out(self, job: Job) -> None:
        self._feed.wait(self._number, job.shard, job.block)
        for run in job.runs:
            self._engine.copy(self._feed, job.shard, run)
        self._feed.consumed(self._number, job.shard, job.block)


@atexit.register
def _close_living() -> None:
    """End iterations that were left unfinished, while their threads still can."""
    for copier in list(_living):
        copier.close()
