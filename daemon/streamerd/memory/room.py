"""Finds out how much memory this process may use for slabs.

This module owns the three ceilings: the machine's memory, the control group's limit and the size of
the shared-memory mount. It also finds what else takes from that memory: other daemons' slabs, and a
GPU that has no memory of its own. The daemon's main process reads these at start; `check.py` says
what they mean for `memory_limit`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from streamerd.memory.others import others_bytes

SHM_MOUNT: Final = "/dev/shm"
"""The mount on which Linux has POSIX shared-memory objects; see shm_overview(7)."""
_UNLIMITED_V1_BYTES: Final = 1 << 60
"""cgroup v1 says "no limit" with a number near 2**63 rather than with a word."""
_NVIDIA: Final = 0x10DE
_UNIFIED_GPUS: Final = range(0x2E00, 0x2E40)
"""PCI device ids of the GPUs of GB10, which share the machine's memory. NVIDIA's own kernels use
the same range."""
_RECLAIMED: Final = ("inactive_file", "active_file")
"""Fields of memory.stat that count page cache, which the kernel frees where memory is short."""


class MemoryRoom(NamedTuple):
    """Ceilings in bytes; None for a ceiling that does not exist or cannot be found out."""

    machine_bytes: int | None
    cgroup_bytes: int | None
    mount_bytes: int | None
    cgroup_file: str = ""
    """The file that holds the control group's limit."""
    cgroup_used_bytes: int = 0
    """Bytes that this control group uses already, without page cache and shared memory."""
    taken_bytes: int = 0
    """Bytes of the mount, and thus of the machine's memory, that other daemons' slabs take."""
    unified: bool = False
    """Whether the GPU uses the machine's memory as its own."""

    @property
    def lowest(self) -> tuple[int, str] | None:
        """The lowest ceiling, and a name for it; None where no ceiling is known.

        Other daemons' slabs are charged to their own control groups. So they lower the ceilings of
        the machine and the mount, but not that of the control group.
        """
        taken = self.taken_bytes
        left = "what other daemons leave of " if taken else ""
        ceilings = (
            (self.cgroup_bytes, 0, f"the control group's limit in {self.cgroup_file}"),
            (self.mount_bytes, taken, f"{left}the size of {SHM_MOUNT}"),
            (self.machine_bytes, taken, f"{left}the machine's memory"),
        )
        known = [(max(0, size - less), what) for size, less, what in ceilings if size is not None]
        return min(known, key=lambda ceiling: ceiling[0], default=None)

    def beside(self, socket_path: str) -> MemoryRoom:
        """A copy in which `taken_bytes` counts the slabs of daemons at other sockets."""
        return self._replace(taken_bytes=others_bytes(SHM_MOUNT, socket_path))


def memory_room(root: str = "/") -> MemoryRoom:
    """The ceilings of the running process; `root` is the folder that holds `proc` and `sys`."""
    machine_bytes, mount_bytes = _machine_bytes(root), _mount_bytes(root)
    limit = cgroup_limit(root)
    room = MemoryRoom(machine_bytes, None, mount_bytes, unified=_has_unified_gpu(root))
    if limit is None:
        return room
    limit_bytes, file = limit
    used_bytes = _cgroup_used_bytes(root, file)
    return room._replace(
        cgroup_bytes=limit_bytes, cgroup_file=f"/{file}", cgroup_used_bytes=used_bytes
    )


def group_folders(root: str, controller: str) -> list[Path]:
    """Folders of the running process's control groups, and of all their parents.

    Args:
        root: the folder that holds `proc` and `sys`.
        controller: the controller whose groups are wanted in cgroup v1; v2 has one tree for all.
    """
    folders = []
    for line in _read(root, "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folders += [Path(root, "sys/fs/cgroup", group) for group in _ancestors(path)]
        elif controller in controllers.split(","):
            tree = Path(root, "sys/fs/cgroup", controller)
            folders += [tree / group for group in _ancestors(path)]
    return folders


def cgroup_files(membership: str) -> list[str]:
    """Files that may limit memory, for a text like /proc/self/cgroup (cgroups(7)).

    A group and each of its parents can have a limit, so the files of all of them are listed,
    relative to /sys/fs/cgroup. memory.high counts as a limit too: the kernel slows a group that
    uses more down until it hardly moves.
    """
    files = []
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            for group in _ancestors(path):
                files += [f"{group}memory.max", f"{group}memory.high"]
        elif "memory" in controllers.split(","):
            files += [f"memory/{group}memory.limit_in_bytes" for group in _ancestors(path)]
    return files


def _ancestors(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part and part != ".."]
    return ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts), -1, -1)]


def cgroup_limit(root: str = "/", process: str = "self") -> tuple[int, str] | None:
    """The lowest limit of a process's control groups, in bytes, and its file below `root`."""
    membership = _read(root, f"proc/{process}/cgroup")
    files = [f"sys/fs/cgroup/{name}" for name in cgroup_files(membership)]
    texts = ((_read(root, file).strip(), file) for file in files)
    limits = [(int(text), file) for text, file in texts if text.isdigit()]
    known = [limit for limit in limits if limit[0] < _UNLIMITED_V1_BYTES]
    return min(known, key=lambda limit: limit[0], default=None)


def _cgroup_used_bytes(root: str, limit_file: str) -> int:
    group = os.path.dirname(limit_file)
    texts = (_read(root, f"{group}/memory.{name}") for name in ("current", "usage_in_bytes"))
    used_bytes = next((int(text) for text in texts if text.strip().isdigit()), 0)
    for line in _read(root, f"{group}/memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in _RECLAIMED or name == "shmem":
            used_bytes -= int(value)
    return max(0, used_bytes)


def _machine_bytes(root: str) -> int | None:
    for line in _read(root, "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    # With systemd's ProcSubset=pid there is no /proc/meminfo. Where there is one, it is the better
    # source: in a container, lxcfs makes it say the container's own memory, unlike sysinfo(2).
    return _sysinfo_bytes() if root == "/" else None


def _sysinfo_bytes() -> int | None:
    pages = os.sysconf("SC_PHYS_PAGES")
    return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else None


def _has_unified_gpu(root: str) -> bool:
    devices = Path(root, "sys/bus/pci/devices").glob("*")
    return any(
        _hexadecimal(root, f"{device}/vendor") == _NVIDIA
        and _hexadecimal(root, f"{device}/device") in _UNIFIED_GPUS
        for device in devices
    )


def _hexadecimal(root: str, path: str) -> int:
    text = _read(root, path).strip()
    return int(text, 16) if text.startswith("0x") else -1


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
