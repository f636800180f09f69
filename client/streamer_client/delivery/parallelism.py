"""How many threads to copy and to read with."""

from __future__ import annotations

import os
from typing import Final

MAX_COPY_THREADS: Final = 8
"""More do not copy faster: the host's memory bandwidth is the limit by then."""
MAX_READ_THREADS: Final = 16


def copy_threads() -> int:
    """Threads that copy from memory to memory."""
    return min(MAX_COPY_THREADS, len(os.sched_getaffinity(0)))


def read_threads(concurrency: int | None, *, remote: bool = False) -> int:
    """Threads that read from storage; they mostly wait, so there may be more than processors.

    A remote source has a connection for each, and those wait even more.
    """
    if remote:
        return concurrency or MAX_READ_THREADS
    return concurrency or min(MAX_READ_THREADS, 4 * len(os.sched_getaffinity(0)))
