"""One job in a worker's hands, from its coming to its answer, or until it is given up.

Owns the one question that decides whether bytes may still be written: does anybody wait for this
job? Shared by the thread that carries the job out and the receiving thread, which may give it up.
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
"""A job that cannot be given up just now is asked again after so long at the earliest."""


class GivenUp(Exception):
    """Nobody waits for this job any more: its thread writes nothing, answers nothing and ends."""


class Unyielding(Exception):
    """The job writes to a slab as it goes; only the end of the process stops it."""


class _State(Enum):
    WAITING = 0
    RUNNING = 1
    ANSWERED = 2
    GIVEN_UP = 3


class Assignment:
    """A job with what it uses. Thread-safe.

    Args:
        job: what is asked.
        fds: descriptors that came with it, closed by whoever carried it out.
        clock: seconds.
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
        """A thread takes it on; its time runs from here."""
        with self._lock:
            self._state = _State.RUNNING
            self._began_s = self._clock()

    def finish(self) -> bool:
        """Whether its answer is still waited for; from now on it is not given up."""
        with self._lock:
            if self._state is _State.GIVEN_UP:
                return False
            self._state = _State.ANSWERED
            return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write to a slab within this; it is not given up meanwhile.

        Raises:
            GivenUp: it was already.
        """
        with self._lock:
            if self._state is _State.GIVEN_UP:
                raise GivenUp
            yield

    def hold_on(self) -> None:
        """From now on it may write at any time, and so cannot be given up without its process.

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
        # Whoever writes holds the lock for a piece's time; the receiving thread does not wait.
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
