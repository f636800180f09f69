"""Finds descriptors, threads, processes and segments that a test left behind by mistake.

Owns taking a snapshot and telling two of them apart. `tests/conftest.py` applies it to each test.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamerd.control.instance import read_instance

SESSION_ENV: Final = "TEST_SESSION_OF_STREAMERD"
"""An environment variable of every process that the tests start, by which daemonised processes are
found too.

The name lacks the daemon's own prefix, since a daemon refuses unknown variables with that prefix.
"""

SHM_DIR: Final = Path("/dev/shm")
SEGMENT: Final = re.compile(r"streamerd\.(?P<instance>[^.]+)\.")

# Libraries open these once and keep them for the life of the process, by design.
_KEPT_TARGETS: Final = ("/dev/nvidia",)
# These threads belong to tqdm's monitor and to torch's compiler pool.
_KEPT_THREADS: Final = ("TMonitor", "InductorSubproc")
_KEPT_PROCESSES: Final = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


_strangers: frozenset[tuple[int, int]] = frozenset()
"""Processes that ran before this test session, as id and inode under /proc. The session owns none
of them, and looking at each before and after each test would take longer than most tests."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The descriptors, threads, processes and segments of this process and its descendants."""

    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[tuple[int, str]]
    processes: frozenset[int]
    segments: frozenset[str]


def mark_session() -> None:
    """Name this test session in the environment that every child inherits."""
    global _strangers  # noqa: PLW0603 - a process is in one session, from its first test on
    _strangers = frozenset(_processes())
    os.environ[SESSION_ENV] = f"{os.getpid()}-{uuid.uuid4().hex}"


def snapshot() -> Snapshot:
    return Snapshot(_descriptors(), _threads(), _descendants(), _segments())


def leaked(before: Snapshot) -> list[str]:
    """One line for each thing that is there now, and was not in the snapshot `before`."""
    now = snapshot()
    lines = [f"descriptor {fd} -> {to}" for fd, to in sorted(now.descriptors - before.descriptors)]
    lines += [f"thread {name!r}" for _, name in sorted(now.threads - before.threads)]
    lines += [f"process {pid}: {_command(pid)}" for pid in sorted(now.processes - before.processes)]
    new_segments = now.segments - before.segments
    if new_segments:
        owned = _owned_instances()
        lines += [
            f"segment /dev/shm/{name}"
            for name in sorted(new_segments)
            if _instance(name) not in owned
        ]
    return lines


def _descriptors() -> frozenset[tuple[int, str]]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            # The listing's own descriptor is closed by now.
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith(_KEPT_TARGETS) and int(name) != _tracker_pipe():
                found.add((int(name), target))
    return frozenset(found)


def _tracker_pipe() -> int | None:
    """The pipe that `multiprocessing` keeps to its resource tracker, once that was started."""
    from multiprocessing import resource_tracker

    tracker = getattr(resource_tracker, "_resource_tracker", None)
    fd = getattr(tracker, "_fd", None)
    return fd if isinstance(fd, int) else None


def _threads() -> frozenset[tuple[int, str]]:
    return frozenset(
        (thread.ident or 0, thread.name)
        for thread in threading.enumerate()
        if not thread.name.startswith(_KEPT_THREADS) and type(thread).__name__ not in _KEPT_THREADS
    )


def _descendants() -> frozenset[int]:
    """Children of this process, unreaped dead ones among them, and marked processes."""
    marker = f"{SESSION_ENV}={os.environ.get(SESSION_ENV, '')}".encode()
    found = set()
    for pid, inode in _processes():
        with contextlib.suppress(OSError):
            if (
                (pid, inode) not in _strangers
                and (_parent(pid) == os.getpid() or marker in _read(pid, "environ").split(b"\0"))
                and not any(kept in _command(pid) for kept in _KEPT_PROCESSES)
            ):
                found.add(pid)
    return frozenset(found - {os.getpid()})


def _segments() -> frozenset[str]:
    return frozenset(name for name in os.listdir(SHM_DIR) if SEGMENT.match(name))


def _instance(segment: str) -> str:
    match = SEGMENT.match(segment)
    return match["instance"] if match else ""


def _owned_instances() -> set[str]:
    """Instances that another living process serves, maps or has open, and that are no orphans.

    A daemon that wrongly outlives a test is reported as a process. A daemon of a wider fixture, or
    of another test session on the same machine, rightly keeps its segments.
    """
    owned: set[str] = set()
    for pid in _pids():
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            paths = (part.removeprefix("--socket=") for part in _command(pid).split())
            owned.update(read_instance(path) or "" for path in paths if path.startswith("/"))
            mapped = re.findall(rb"/dev/shm/(streamerd\.[^\s]+)", _read(pid, "maps"))
            owned.update(_instance(name.decode()) for name in mapped)
            owned.update(_instance(name) for name in _opened_segments(pid))
    return owned


def _opened_segments(pid: int) -> Iterator[str]:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            directory, name = os.path.split(os.readlink(f"/proc/{pid}/fd/{fd}"))
            if directory == str(SHM_DIR):
                yield name


def _pids() -> list[int]:
    return [pid for pid, _ in _processes()]


def _processes() -> list[tuple[int, int]]:
    with os.scandir("/proc") as entries:
        return [(int(entry.name), entry.inode()) for entry in entries if entry.name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read()


def _parent(pid: int) -> int:
    return int(_read(pid, "stat").rpartition(b")")[2].split()[1])


def _command(pid: int) -> str:
    try:
        words = _read(pid, "cmdline").split(b"\0")
    except OSError:
        return "(gone)"
    return b" ".join(words).decode(errors="replace").strip() or "(ended, and nobody waited for it)"
