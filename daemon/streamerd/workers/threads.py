"""Threads that may be lost: to a read, or a close, that never returns.

Owns starting them, handing them work and making up for lost ones. They are daemon threads, so that
no process waits at its end for a thread that will never come back. Used by fetch workers for their
lanes, and by whoever has to close what may hang.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

logger = logging.getLogger(__name__)

CLOSING_THREADS: Final = 8
"""Files that may hang in being closed before those that follow wait for them."""


class Threads:
    """Up to `count` threads at once, each started when there is work for it.

    A call that was `lose`d does not count any more: another thread takes its place at once, and its
    own ends when the call returns, if it ever does.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._calls: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._running = 0
        self._idle = 0
        """Threads that wait for a call, less the calls that wait for a thread."""

    def submit(self, call: Callable[[], bool]) -> None:
        """Have a thread make the call; it returns whether its thread goes on, False once lost."""
        with self._lock:
            self._calls.put(call)
            self._idle -= 1
            self._start_if_needed()

    def lose(self) -> None:
        """A call that was begun is not waited for; it will return False."""
        with self._lock:
            self._running -= 1
            self._start_if_needed()

    def _start_if_needed(self) -> None:
        if self._idle < 0 and self._running < self._count:
            self._running += 1
            self._idle += 1
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            if not call():
                return
            del call  # what it holds is not kept until the next one comes
            with self._lock:
                self._idle += 1
        with self._lock:
            self._running -= 1
            self._ended.notify_all()

    def end(self, wait_s: float | None = None, *, cancel: bool = False) -> None:
        """Let the threads end and wait for those that were not lost.

        Args:
            wait_s: for how long at most.
            cancel: without what was submitted and not begun.
        """
        while cancel:
            try:
                self._calls.get_nowait()
            except queue.Empty:
                break
        with self._lock:
            for _ in range(self._running):
                self._calls.put(None)
            self._ended.wait_for(lambda: not self._running, wait_s)


class Closer:
    """Closes descriptors where nobody waits for it: a close may send a request and never return."""

    def __init__(self, name: str = "closing") -> None:
        self._threads = Threads(name, CLOSING_THREADS)
        self._fds: deque[int] = deque()
        self._unclosed = 0
        self._done: deque[None] = deque()
        """One for each that a thread has closed; whoever hands them over counts them off."""

    def close(self, fds: Iterable[int]) -> None:
        """Close them, the caller's until now.

        Whichever thread comes first closes one after the other, and the next goes on where one
        hangs: hundreds come at once, and a call for each would cost more than the close.
        """
        taken = list(fds)
        self._unclosed += len(taken)
        self._fds.extend(taken)
        if self._fds:
            self._threads.submit(self._close_all)

    @property
    def unclosed(self) -> int:
        """How many that were handed over are not closed yet; for whoever hands them over."""
        with contextlib.suppress(IndexError):  # empty
            while True:
                self._done.popleft()
                self._unclosed -= 1
        return self._unclosed

    def _close_all(self) -> bool:
        with contextlib.suppress(IndexError):  # empty
            while True:
                fd = self._fds.popleft()
                try:
                    os.close(fd)
                except OSError as error:
                    logger.warning("not closed error=%s", error)
                self._done.append(None)
        return True

    def call(self, close: Callable[[], None]) -> None:
        """Make a call that closes something."""

        def closing() -> bool:
            try:
                close()
            except OSError as error:
                logger.warning("not closed error=%s", error)
            return True

        self._threads.submit(closing)

    def end(self, wait_s: float) -> None:
        """Wait for what was handed over, so long at most."""
        self._threads.end(wait_s)
