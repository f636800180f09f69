"""Pools of threads in which a thread may be lost to a read or close that never returns.

A lost thread is replaced by another one. All are daemon threads, so that a process does not wait at
its end for a lost thread. Fetch workers use pools for their lanes; workers and the daemon use them
to close descriptors.
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
"""Number of files whose close may hang before the close of further files waits for them."""


class Threads:
    """Up to `count` threads at once, each started when there is work for it.

    A thread whose call was lost (`lose`) no longer counts: another thread takes its place at once,
    and the lost thread ends when its call returns, if it ever does.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._count = count
        self._calls: queue.SimpleQueue[Callable[[], bool] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._running = 0
        self._idle = 0
        """Number of threads that wait for a call, minus the calls that wait for a thread."""

    def submit(self, call: Callable[[], bool]) -> None:
        """Have a thread make the call; the call returns False if its thread was lost meanwhile."""
        with self._lock:
            self._calls.put(call)
            self._idle -= 1
            self._start_if_needed()

    def lose(self) -> None:
        """Count the thread of a running call as lost; the call has to return False."""
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
            del call  # otherwise its objects would live until the next call comes
            with self._lock:
                self._idle += 1
        with self._lock:
            self._running -= 1
            self._ended.notify_all()

    def end(self, wait_s: float | None = None, *, cancel: bool = False) -> None:
        """Let the threads end and wait for those that were not lost.

        Args:
            wait_s: how long to wait at most; None for as long as it takes.
            cancel: whether to drop calls that were submitted and not begun.
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
    """Closes descriptors in threads, as a close may ask a file server and never return."""

    def __init__(self, name: str = "closing") -> None:
        self._threads = Threads(name, CLOSING_THREADS)
        self._fds: deque[int] = deque()
        self._unclosed = 0
        self._done: deque[None] = deque()
        """An entry for each descriptor that was closed and that `unclosed` has not counted yet."""

    def close(self, fds: Iterable[int]) -> None:
        """Close these descriptors, which belong to this object from now on.

        The first free thread closes one after the other. If a close hangs, the next thread goes on
        with the rest. Hundreds may come at once, so they are not submitted one by one.
        """
        taken = list(fds)
        self._unclosed += len(taken)
        self._fds.extend(taken)
        if self._fds:
            self._threads.submit(self._close_all)

    @property
    def unclosed(self) -> int:
        """Number of descriptors not closed yet; only the thread that calls `close` may ask."""
        with contextlib.suppress(IndexError):  # the queue is empty
            while True:
                self._done.popleft()
                self._unclosed -= 1
        return self._unclosed

    def _close_all(self) -> bool:
        with contextlib.suppress(IndexError):  # the queue is empty
            while True:
                fd = self._fds.popleft()
                try:
                    os.close(fd)
                except OSError as error:
                    logger.warning("event=descriptor_not_closed error=%s", error)
                self._done.append(None)
        return True

    def call(self, close: Callable[[], None]) -> None:
        """Make a call that closes something."""

        def closing() -> bool:
            try:
                close()
            except OSError as error:
                logger.warning("event=descriptor_not_closed error=%s", error)
            return True

        self._threads.submit(closing)

    def end(self, wait_s: float) -> None:
        """Wait until everything is closed, at most `wait_s`."""
        self._threads.end(wait_s)
