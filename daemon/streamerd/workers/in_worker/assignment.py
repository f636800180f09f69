"""One job of a worker, from its arrival until it is answered or given up.

A job that was given up must write nothing more into a slab. This module decides whether a job may
still write. Two threads share an assignment: the thread that carries the job out, and the receiving
thread, which may give the job up.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final

from streamerd.workers.jobs import AnyJob

TRY_AGAIN_S: Final = 0.05
"""The least time in seconds after which giving up is tried again, if a job cannot be given up
now."""


class GivenUp(Exception):
    """The job was given up. Its thread writes nothing more, sends no answer and ends."""


class Unyielding(Exception):
    """The job writes into a slab as it reads. Only the end of the process stops it."""


class _State(Enum):
    WAITING = 0
    RUNNING = 1
    ANSWERED = 2
    GIVEN_UP = 3


class Assignment:
    """A job and its state. Thread-safe.

    Args:
        job: the job.
        fds: descriptors that came with the job; the carrier closes them when the job ends.
        clock: returns seconds.
    """

    def __init__(
        self,
        job: AnyJob,
        fds: tuple[int, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        self.fds = fds
        self._clock = clock
        self._state = _State.WAITING
        self._began_s = 0.0
        self._unyielding = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Note that a thread begins the job; the time limit counts from here."""
        with self._lock:
            self._state = _State.RUNNING
            self._began_s = self._clock()

    def finish(self) -> bool:
        """Note that the job has its answer and cannot be given up now; False if it was before."""
        with self._lock:
            if self._state is _State.GIVEN_UP:
                return False
            self._state = _State.ANSWERED
            return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A context for writing into a slab, within which the job is not given up.

        Raises:
            GivenUp: the job was given up before.
        """
        with self._lock:
            if self._state is _State.GIVEN_UP:
                raise GivenUp
            yield

    def hold_on(self) -> None:
        """Let the job write at any time from now on, so that only its process's end stops it.

        Raises:
            GivenUp: the job was given up before.
        """
        with self.writing():
            self._unyielding = True

    def give_up(self, limit_s: float) -> float | None:
        """Give the job up if a thread has worked on it for `limit_s` or longer.

        Returns:
            0 if the job was given up, None if it was answered. If it is too early, the seconds
            after which to ask again.

        Raises:
            Unyielding: the time is over, but the job cannot be given up.
        """
        # A thread that writes holds the lock for a while, and the receiving thread must not wait.
        if not self._lock.acquire(blocking=False):
            return TRY_AGAIN_S
        try:
            if self._state is _State.ANSWERED:
                return None
            if self._state is _State.WAITING:
                return max(limit_s, TRY_AGAIN_S)
            left_s = self._began_s + limit_s - self._clock()
            if left_s > 0:
                return left_s
            if self._unyielding:
                raise Unyielding
            self._state = _State.GIVEN_UP
            return 0.0
        finally:
            self._lock.release()
