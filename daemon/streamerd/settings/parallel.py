"""Computes workers, threads, connections and block size for this machine, as defaults of settings.

Pure, except `processors`, which asks the kernel. Used in the main process at start.

The numbers come from measurements on sixteen processors, with a store on the same machine
(docs/performance.md). One process of Python reads at most some 3 GB/s, because its threads wait for
the interpreter's lock, and one worker for each processor reads fastest. On two processors, one
worker is enough to keep them busy. With blocks of 16 MiB instead of 8 the same load takes a fifth
less processor time, since the kernel makes huge pages in fewer calls, and threads of workers and
ranks meet half as often.
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
"""With fewer processors than this, there is one worker for two of them, and clients copy on the
rest."""
MOST_THREADS: Final = 4
DISK_READS: Final = 16
"""How many reads of files at once, in all workers together, keep a disk or the page cache busy."""
LEAST_CONNECTIONS: Final = 32
MOST_CONNECTIONS: Final = 256
CONNECTIONS_FOR_EACH: Final = 8
"""Connections for each processor. Sixteen processors have 128, which read 2 GiB in blocks of 16 MiB
at once. That is more than the 0.6 GiB in flight at 100 Gbit/s and 50 ms."""
WORKER_BYTES: Final = 48 << 20
"""Memory that a worker with one thread may need, with the thread's buffer of one block."""
SHARE: Final = 16
"""Workers may use at most this fraction of the memory, as a divisor: one part in sixteen."""


def processors(root: str = "/") -> float:
    """How many processors this process may use, by its affinity and its control groups' quota.

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    quotas = (_quota(folder) for folder in group_folders(root, "cpu"))
    return min([float(len(os.sched_getaffinity(0))), *(quota for quota in quotas if quota)])


def _quota(folder: Path) -> float | None:
    """The number of processors that a group's `cpu.max` (in cgroup v1, its quota) allows."""
    try:
        words = (folder / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        except OSError:
            return None
    try:
        quota_us, period_us = map(int, words)
    except ValueError:  # the file says "max", which means no quota
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def workers_for(cores: float, room: MemoryRoom) -> int:
    """The default number of fetch workers."""
    wanted = cores / 2 if cores < FEW_PROCESSORS else cores
    if room.lowest is not None:
        wanted = min(wanted, room.lowest[0] / SHARE / WORKER_BYTES)
    return max(1, min(MOST_WORKERS, int(wanted)))


def threads_for(workers: int) -> int:
    """The default number of threads that read files in each worker."""
    return max(1, min(MOST_THREADS, DISK_READS // workers))


def block_bytes_for(cores: float) -> int:
    """Size of a block by default."""
    return DEFAULT_BLOCK_BYTES if cores < FEW_PROCESSORS else 2 * DEFAULT_BLOCK_BYTES


def connections_for(cores: float) -> int:
    """The default number of concurrent reads from object stores, in all workers together."""
    wanted = CONNECTIONS_FOR_EACH * math.floor(cores)
    return max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, wanted))
