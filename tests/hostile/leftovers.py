"""The things that a daemon still has when nobody needs anything of it any more; there must be none.

Owns looking for them from outside, by /proc and /dev/shm, and by the daemon's own status. The
caller decides when everybody has left.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamer_client.client import daemon_client
from tests.support.daemon import DaemonProcess

_DELETED = " (deleted)"


def status_of(daemon: DaemonProcess) -> dict[str, Any]:
    """The status that the daemon tells a client."""
    with daemon_client(daemon.socket, label="driver", reconnect_s=0) as client:
        told: dict[str, Any] = client.admin.status()
        return told


def evict_all(daemon: DaemonProcess) -> None:
    with daemon_client(daemon.socket, label="driver", reconnect_s=0) as client:
        client.admin.evict()


def leftovers(daemon: DaemonProcess, files: Path) -> list[str]:
    """One line for each leftover; `files` is the folder of the clients' checkpoints."""
    told = status_of(daemon)
    lines = [f"waiting: {row}" for row in told["waiting"]]
    for source in told["sources"]:
        for row in source["shards"]:
            lines += [f"lease of {row['uri']}: {lease}" for lease in row["leases"]]
    memory = told["memory"]
    for name in ("leased_bytes", "committed_bytes", "lingering_bytes"):
        if memory[name]:
            lines.append(f"{name} is {memory[name]}")
    allocated_bytes = daemon.allocated_bytes()
    if memory["used_bytes"] != allocated_bytes:
        lines.append(f"used_bytes is {memory['used_bytes']}, /dev/shm holds {allocated_bytes}")
    for pid in (daemon.pid, *descendants(daemon.pid)):
        for target in opened_by(pid):
            if target.startswith((str(files), "/dev/shm/")) and _is_leftover(target, files):
                lines.append(f"process {pid} has {target} open")
    return lines


def _is_leftover(target: str, files: Path) -> bool:
    """Whether this is a client's file, or a slab that has no name any more."""
    return target.startswith(str(files)) or target.endswith(_DELETED)


def opened_by(pid: int) -> list[str]:
    """The files that a process has open, in the kernel's words."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


def sockets_of(pid: int) -> int:
    return sum(target.startswith("socket:") for target in opened_by(pid))


def descendants(pid: int) -> Iterator[int]:
    """All processes that a process started, and those that they started."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii")
            found += map(int, text.split())
    return found


def serving(socket_path: str) -> list[int]:
    """The processes whose command line names a daemon's socket."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if f"--socket={socket_path}".encode() in words:
                    found.append(int(name))
    return found
