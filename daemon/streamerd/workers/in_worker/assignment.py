"""One job of a worker, from its arrival until it is answered or given up.

A job that was given up must write nothing more into a slab; this module decides whether a job still
may. The thread that carries the job out and the receiving thread, which may give it up, share it.
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
"""After this time at the earliest, a job that cannot be given up just now is tried again."""


class GivenUp(Exception):
    """The job was given up: its thread writes nothing more, answers nothing and ends."""


class Unyielding(Exception):
    """The job writes to a slab as it goes; only the end of the process stops it."""


class _State(Enum):
    WAITING = 0
    RUNNING = 1
    ANSWERED = 2
    GIVEN_UP = 3


class Assignment:
    """A job and its state. Thread-safe.

    Args:
        job: what is asked.
        fds: descriptors that came with it; the carrier closes them when the job ends.
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
        """A thread begins the job; the time limit counts from here."""
        with self._lock:
            self._state = _State.RUNNING
            self._began_s = self._clock()

    def finish(self) -> bool:
        """The job has its answer and cannot be given up any more; False if it already was."""
        with self._lock:
            if self._state is _State.GIVEN_UP:
                return False
            self._state = _State.ANSWERED
            return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Writes to a slab happen within this context; the job is not given up meanwhile.

        Raises:
            GivenUp: it was already.
        """
        with self._lock:
            if self._state is _State.GIVEN_UP:
                raise GivenUp
            yield

    def hold_on(self) -> None:
        """From now on the job may write at any time, so that only its process's end stops it.

        Raises:
            GivenUp: it was already.
        """
        with self.writing():
            self._unyielding = True

    def give_up(self, limit_s: float) -> float | None:
        """Give it up if a thread has had it for `limit_s` or longer.

        Returns:
            0 if it was given up, seconds after which to ask again if it is too early for that, and
            None if it was answered.

        Raises:
            Unyielding: it is time, and it cannot be given up.
        """
        # A thread that writes has the lock for a while; the receiving thread must not wait for it.
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
