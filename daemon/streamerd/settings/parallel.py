"""How many workers, threads and connections, and how large blocks fit this machine: the defaults.

Pure but for `processors`, which asks the kernel. Used in the main process at start.

Measured on sixteen processors from a store on the same machine (docs/performance.md): one process
of Python does not take in more than some 3 GB/s, because its threads queue for the interpreter; a
worker for each processor reads fastest. Two processors are busy with one worker. With blocks of
16 MiB instead of 8 the same load takes a fifth less processor time, since the kernel makes huge
pages in fewer calls, and threads of workers and ranks meet half as often.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES
from streamerd.memory.room import MemoryRoom, group_folders

MOST_WORKERS: Final = 32
FEW_PROCESSORS: Final = 8
"""With fewer processors than this, every other one has a worker: clients copy on the rest."""
MOST_THREADS: Final = 4
DISK_READS: Final = 16
"""Reads of files at once, all workers together, that keep a disk or a page cache busy."""
LEAST_CONNECTIONS: Final = 32
MOST_CONNECTIONS: Final = 256
CONNECTIONS_FOR_EACH: Final = 8
"""Connections for each processor. Sixteen processors have 128, which are 2 GiB of blocks of 16 MiB:
more than the 0.6 GiB that are on their way at 100 Gbit/s and 50 ms."""
WORKER_BYTES: Final = 48 << 20
"""Memory that a worker with one thread may need, a buffer of one block for the thread included."""
SHARE: Final = 16
"""Workers get at most one part in so many of the memory."""


def processors(root: str = "/") -> float:
    """How many processors this process may use: those it may run on, and its groups' quota.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    quotas = (_quota(folder) for folder in group_folders(root, "cpu"))
    return min([float(len(os.sched_getaffinity(0))), *(quota for quota in quotas if quota)])


def _quota(folder: Path) -> float | None:
    """Processors that a control group's `cpu.max` (or, in cgroup v1, its quota) stands for."""
    try:
        words = (folder / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        except OSError:
            return None
    try:
        quota_us, period_us = map(int, words)
    except ValueError:  # "max"
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def workers_for(cores: float, room: MemoryRoom) -> int:
    """Fetch processes by default."""
    wanted = cores / 2 if cores < FEW_PROCESSORS else cores
    if room.lowest is not None:
        wanted = min(wanted, room.lowest[0] / SHARE / WORKER_BYTES)
    return max(1, min(MOST_WORKERS, int(wanted)))


def threads_for(workers: int) -> int:
    """Threads that read files in each of so many workers, by default."""
    return max(1, min(MOST_THREADS, DISK_READS // workers))


def block_bytes_for(cores: float) -> int:
    """Size of a block by default."""
    return DEFAULT_BLOCK_BYTES if cores < FEW_PROCESSORS else 2 * DEFAULT_BLOCK_BYTES


def connections_for(cores: float) -> int:
    """Concurrent reads from object stores by default, of all workers together."""
    wanted = CONNECTIONS_FOR_EACH * math.floor(cores)
    return max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, wanted))
