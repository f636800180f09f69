"""The defaults that depend on the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamerd.memory.check import own_bytes
from streamerd.memory.room import MemoryRoom
from streamerd.settings.parallel import (
    block_bytes_for,
    connections_for,
    processors,
    threads_for,
    workers_for,
)

ANY = MemoryRoom(None, None, None)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "connections", "block_mib"),
    [
        (0.5, 1, 4, 32, 8),
        (1, 1, 4, 32, 8),
        (2, 1, 4, 32, 8),
        (4, 2, 4, 32, 8),
        (7.5, 3, 4, 56, 8),
        (8, 8, 2, 64, 16),
        (16, 16, 1, 128, 16),
        (32, 32, 1, 256, 16),
        (224, 32, 1, 256, 16),
    ],
)
def test_what_fits_so_many_processors(
    cores: float, workers: int, threads: int, connections: int, block_mib: int
) -> None:
    assert workers_for(cores, ANY) == workers
    assert threads_for(workers) == threads
    assert connections_for(cores) == connections
    assert block_bytes_for(cores) == block_mib << 20


@pytest.mark.parametrize("memory_gib", [1, 2, 4, 8, 64, 2048])
def test_workers_leave_most_of_the_memory_to_slabs(memory_gib: int) -> None:
    room = MemoryRoom(None, memory_gib * GIB, None)
    workers = workers_for(128, room)
    assert 1 <= workers <= 32
    spent = own_bytes(workers, threads_for(workers), block_bytes_for(128)) - own_bytes(0, 0, 0)
    assert spent <= memory_gib * GIB / 8


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "garbage\n"}, None),
        ({"proc/self/cgroup": "0::/pod\n", "sys/fs/cgroup/pod/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "proc/self/cgroup": "0::/pod/c\n",
                "sys/fs/cgroup/pod/c/cpu.max": "80000 100000\n",
                "sys/fs/cgroup/pod/cpu.max": "30000 100000\n",
            },
            0.3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker\n3:memory:/docker\n",
                "sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us": "25000\n",
                "sys/fs/cgroup/cpu/docker/cpu.cfs_period_us": "100000\n",
            },
            0.25,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/docker\n",
                "sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/docker/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
)
def test_a_quota_counts_as_processors(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    allowed = float(len(os.sched_getaffinity(0)))
    assert processors(tree(tmp_path, files)) == (allowed if quota is None else quota)
