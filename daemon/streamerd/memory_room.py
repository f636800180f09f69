"""How much memory this process may use for slabs.

Owns the three ceilings that the default memory limit is taken from: the machine's memory, the
control group's limit and the size of the shared-memory mount. Read once, at start, by the daemon.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

SHM_MOUNT: Final = "/dev/shm"
_UNLIMITED_V1_BYTES: Final = 1 << 60
"""cgroup v1 says "no limit" with a number near 2**63 rather than with a word."""


class MemoryRoom(NamedTuple):
    """Ceilings in bytes; None where there is none or it cannot be told."""

    machine_bytes: int | None
    cgroup_bytes: int | None
    mount_bytes: int | None

    @property
    def usable_bytes(self) -> int | None:
        """The lowest ceiling."""
        return min((ceiling for ceiling in self if ceiling is not None), default=None)


def memory_room(root: str = "/") -> MemoryRoom:
    """The ceilings of the running process; `root` is where `proc` and `sys` are looked for."""
    return MemoryRoom(_machine_bytes(root), _cgroup_bytes(root), _mount_bytes(root))


def cgroup_files(membership: str) -> list[str]:
    """Files that may limit memory, for a text like /proc/self/cgroup (cgroups(7)).

    Each group on the way up can limit, so all of them are named, below /sys/fs/cgroup.
    """
    files = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            files += [f"{group}memory.max" for group in _ancestors(path)]
        elif "memory" in controllers.split(","):
            files += [f"memory/{group}memory.limit_in_bytes" for group in _ancestors(path)]
    return files


def _ancestors(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part and part != ".."]
    return ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts), -1, -1)]


def _cgroup_bytes(root: str) -> int | None:
    membership = _read(root, "proc/self/cgroup")
    texts = (_read(root, f"sys/fs/cgroup/{file}").strip() for file in cgroup_files(membership))
    limits = [int(text) for text in texts if text.isdigit()]
    return min((limit for limit in limits if limit < _UNLIMITED_V1_BYTES), default=None)


def _machine_bytes(root: str) -> int | None:
    for line in _read(root, "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return None


def _mount_bytes(root: str) -> int | None:
    try:
        stat = os.statvfs(os.path.join(root, SHM_MOUNT.lstrip("/")))
    except OSError:
        return None
    return stat.f_blocks * stat.f_frsize or None  # a tmpfs without a size limit counts 0 blocks


def _read(root: str, path: str) -> str:
    try:
        return Path(root, path).read_text()
    except OSError:
        return ""
