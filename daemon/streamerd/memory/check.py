"""Checks whether this machine allows a memory limit, and whether it leaves room for others. Pure.

The kernel charges slabs to the control group of the process that touches them first. That is the
daemon's group, which also needs memory for its own processes. If a limit does not fit the group,
the kernel's OOM killer ends a process, hours later and far from the cause. So the limit is compared
with the memory that exists when the daemon starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from streamer_client.contract.layout import PAGE_BYTES
from streamer_client.contract.sizes import exact_size, format_size
from streamerd.memory.room import SHM_MOUNT, MemoryRoom

_MAIN_BYTES: Final = 64 << 20
_WORKER_BYTES: Final = 32 << 20
"""Memory that the main process and each worker used in measurements, rounded up."""
_TIGHT: Final = 0.9
"""The share of a ceiling above which slabs and daemon leave too little to other processes."""


class DefaultLimit(NamedTuple):
    """The memory limit that is used if no limit was given."""

    limit_bytes: int
    origin: str
    """The memory that the limit is a part of, in words."""


def default_limit(room: MemoryRoom, block_bytes: int) -> DefaultLimit | None:
    """Half of the lowest ceiling, in whole blocks; a quarter if the GPU shares the memory.

    If the GPU shares it, a checkpoint is in memory twice, in slabs and as parameters, and vLLM's
    other GPU memory comes from the same memory. Returns None if no ceiling is known.
    """
    lowest = room.lowest
    if lowest is None:
        return None
    share, words = (4, "a quarter") if room.unified else (2, "half")
    limit_bytes = lowest[0] // share // block_bytes * block_bytes
    shared = ", which the GPU shares" if room.unified else ""
    return DefaultLimit(limit_bytes, f"{words} of {lowest[1]}, {format_size(lowest[0])}{shared}")


def own_bytes(workers: int, threads: int, block_bytes: int) -> int:
    """Bytes that the daemon's processes need beside slabs, with a block's buffer a thread."""
    return _MAIN_BYTES + workers * (_WORKER_BYTES + threads * block_bytes)


def contradiction(limit_bytes: int, own: int, room: MemoryRoom) -> str | None:
    """Why slabs of `limit_bytes` beside the daemon's `own` bytes are impossible, and the remedy."""
    if room.mount_bytes is not None and limit_bytes > room.mount_bytes:
        return (
            f"more than the {SHM_MOUNT} mount's {room.mount_bytes} bytes "
            f"({format_size(room.mount_bytes)}); lower memory_limit, or enlarge the mount with: "
            f"mount -o remount,size={exact_size(_whole_pages(limit_bytes))} {SHM_MOUNT}"
        )
    if room.machine_bytes is not None and limit_bytes > room.machine_bytes:
        return (
            f"more than the machine's {room.machine_bytes} bytes "
            f"({format_size(room.machine_bytes)}); lower memory_limit"
        )
    if room.cgroup_bytes is not None and limit_bytes + own > room.cgroup_bytes:
        most = max(0, room.cgroup_bytes - own)
        return (
            f"which with {format_size(own)} for the daemon's own processes is more than the "
            f"control group's limit of {room.cgroup_bytes} bytes "
            f"({format_size(room.cgroup_bytes)}, {room.cgroup_file}): the kernel would kill them. "
            f"Lower memory_limit to {most} ({format_size(most)}) or less, or raise the group's "
            "limit (systemd: MemoryMax= and MemoryHigh=; a container: its memory limit)"
        )
    return None


def doubts(limit_bytes: int, own: int, room: MemoryRoom) -> Iterator[str]:
    """The reasons why a possible limit may still be too high, each as one sentence."""
    needed = limit_bytes + own
    if room.cgroup_bytes is not None and needed + room.cgroup_used_bytes > room.cgroup_bytes:
        yield (
            f"the control group's limit of {format_size(room.cgroup_bytes)} ({room.cgroup_file}) "
            f"has no room for memory_limit ({format_size(limit_bytes)}), {format_size(own)} for "
            f"the daemon and the {format_size(room.cgroup_used_bytes)} that the group uses already"
        )
    elif room.cgroup_bytes is not None and needed > _TIGHT * room.cgroup_bytes:
        yield (
            f"memory_limit and the daemon take {format_size(needed)} of the control group's "
            f"{format_size(room.cgroup_bytes)} ({room.cgroup_file}); ranks in the same group find "
            "little"
        )
    if room.machine_bytes is not None and needed > _TIGHT * room.machine_bytes:
        yield (
            f"memory_limit and the daemon take {format_size(needed)} of the machine's "
            f"{format_size(room.machine_bytes)}; the ranks need memory too"
        )


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
