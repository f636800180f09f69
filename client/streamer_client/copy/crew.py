"""A few threads that do the same work side by side.

Starting a thread means waiting until it runs, a third of a millisecond on a busy machine. So the
first thread starts the second and so on, while their maker goes on. `Copier` and `Gatherer` work by
a crew each.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Crew:
    """Threads that each call a function once.

    If the system refuses a thread, there are fewer; at least one runs.

    Args:
        work: what each thread does.
        size: how many threads to start.
        name: the beginning of the threads' names.

    Raises:
        RuntimeError: no thread can be started.
    """

    def __init__(self, work: Callable[[], None], size: int, name: str) -> None:
        self._work = work
        self._threads = [
            threading.Thread(target=self._begin, args=(place,), name=f"{name}-{place}", daemon=True)
            for place in range(size)
        ]
        self._threads[0].start()

    def join(self) -> None:
        """Wait until all threads have ended."""
        for thread in self._threads:  # each has started the next one before it ends
            thread.join()

    def _begin(self, place: int) -> None:
        following = place + 1
        if following < len(self._threads):
            try:
                self._threads[following].start()
            except RuntimeError:
                del self._threads[following:]
        self._work()
