"""Other users and other namespaces: commands behind which a daemon or a client is started.

A command ends by executing the words that follow it, so it is put before a program (`Visitor`, or
the `before` of a daemon). This module also finds out why a machine cannot do this; tests are
skipped with that reason.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

import streamer_client
from tests.support.visitor import REPOSITORY

SERVICE: Final = 20001
"""The user and primary group of a daemon that serves others."""
MEMBER: Final = 20002
OTHER_MEMBER: Final = 20003
STRANGER: Final = 20004
GROUP: Final = 20100
"""The group whose members may use the service's socket."""


def needs_root() -> pytest.MarkDecorator:
    """A mark for tests that change users or namespaces."""
    return pytest.mark.skipif(
        bool(why := _why_not_root()), reason=why or "can change users and namespaces"
    )


@functools.cache
def _why_not_root() -> str:
    if os.getuid() != 0:
        return "needs root: it changes users and namespaces"
    for tool in ("setpriv", "unshare", "mount"):
        if shutil.which(tool) is None:
            return f"needs `{tool}` (util-linux)"
    tried = subprocess.run(["unshare", "-mipf", "true"], capture_output=True, check=False)
    if tried.returncode:
        return "needs the right to make namespaces (CAP_SYS_ADMIN)"
    tried = subprocess.run(
        [*as_user(STRANGER), sys.executable, "-c", _STARTS_ITSELF],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    return "needs an interpreter that every user may run" if tried.returncode else ""


_STARTS_ITSELF: Final = (
    "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import streamerd']))"
)
"""A program that starts a second interpreter: `setpriv` executes the first with more rights."""


# --- commands -------------------------------------------------------------------------------------


def as_user(uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> list[str]:
    """A command that becomes a user, in the group of the same number unless told otherwise."""
    more = ["--groups", ",".join(map(str, groups))] if groups else ["--clear-groups"]
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid if gid is None else gid}", *more, "--"]
    return [*_with_interpreter(), *become]


@functools.cache
def _with_interpreter() -> tuple[str, ...]:
    """A command that makes the interpreter reachable if it lies in somebody's closed home.

    It does so only in its own mount namespace, in which that home holds nothing else.
    """
    needed = {Path(path).resolve() for path in (sys.base_prefix, sys.prefix, REPOSITORY)}
    closed: dict[Path, list[Path]] = {}
    for path in sorted(needed):
        shut = [above for above in (path, *path.parents) if not above.stat().st_mode & stat.S_IXOTH]
        if shut:
            closed.setdefault(shut[-1], []).append(path)
    if not closed:
        return ()
    lines = ["set -e", "mount -t tmpfs tmpfs /mnt"]
    for folder, paths in closed.items():
        kept = {path: Path(f"/mnt/{number}") for number, path in enumerate(paths)}
        for path, at in kept.items():
            lines += [f"mkdir {at}", f"mount --bind {_quoted(path)} {at}"]
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {_quoted(folder)}")
        for path, at in kept.items():
            lines += [f"mkdir -p {_quoted(path)}", f"mount --bind {at} {_quoted(path)}"]
            lines += [f"umount {at}", f"rmdir {at}"]
    lines += ["umount /mnt", 'exec "$@"']
    return ("unshare", "--mount", "sh", "-c", "\n".join(lines), "sh")


def as_member(uid: int = MEMBER) -> list[str]:
    """A command that becomes a user who may use the service."""
    return as_user(uid, groups=[GROUP])


def with_limit(soft: int, hard: int) -> list[str]:
    """A command that limits the open files of the program, as far as this user may raise them."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.getuid() != 0 and most != resource.RLIM_INFINITY:
        hard = min(hard, most)
    return ["prlimit", f"--nofile={soft}:{hard}", "--"]


@dataclass(frozen=True, slots=True)
class World:
    """Separate namespaces for a program, as a container has them.

    Attributes:
        hidden: folders that are empty there.
        bound: folders that have another name there: the path here, and the path there.
        shm: whether it shares /dev/shm; otherwise it has an empty one.
        pids: whether it shares the pid namespace.
    """

    hidden: tuple[Path, ...] = ()
    bound: tuple[tuple[Path, Path], ...] = ()
    shm: bool = False
    pids: bool = False

    def enter(self, then: Sequence[str] = ()) -> list[str]:
        """A command that enters a new world of this kind, and then executes `then`."""
        lines = ["set -e"]
        if not self.shm:
            lines.append("mount -t tmpfs -o mode=1777 tmpfs /dev/shm")
        lines += [f"mount --bind {_quoted(source)} {_quoted(at)}" for source, at in self.bound]
        lines += [f"mount -t tmpfs -o mode=755 tmpfs {_quoted(folder)}" for folder in self.hidden]
        lines.append('exec "$@"')
        pids = [] if self.pids else ["--pid", "--fork", "--kill-child", "--mount-proc"]
        script = "\n".join(lines)
        return ["unshare", "--mount", "--ipc", *pids, "sh", "-c", script, "sh", *then]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


# --- places ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def shared_folder(uid: int = 0, gid: int = 0, mode: int = 0o755) -> Iterator[Path]:
    """A folder of this user that others can reach, with a path short enough for a socket."""
    top = Path(tempfile.mkdtemp(prefix="strd-"))
    top.chmod(0o755)
    folder = top / "run"
    folder.mkdir()
    os.chown(folder, uid, gid)
    folder.chmod(mode)
    try:
        yield folder
    finally:
        shutil.rmtree(top)


def give(paths: Sequence[Path], uid: int, mode: int = 0o644) -> None:
    """Make a user the owner of files."""
    for path in paths:
        os.chown(path, uid, uid)
        path.chmod(mode)


# --- what a daemon shows --------------------------------------------------------------------------


def status_of(socket: str | Path) -> dict[str, Any]:
    """The document of `streamerctl status --json`, requested by this process."""
    with streamer_client.connect(socket) as client:
        return client.admin.status()


def totals_of(socket: str | Path) -> dict[str, int]:
    totals: dict[str, int] = status_of(socket)["totals"]
    return totals


def shards_of(socket: str | Path) -> list[dict[str, Any]]:
    """The rows of all shards."""
    return [row for source in status_of(socket)["sources"] for row in source["shards"]]


def leased_bytes(socket: str | Path) -> int:
    leased: int = status_of(socket)["memory"]["leased_bytes"]
    return leased


def processes_of(pid: int) -> list[int]:
    """A process and all processes that it started."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                told = Path(f"/proc/{one}/task/{task}/children").read_text()
                found += [int(word) for word in told.split()]
    return found


def open_files_of(pid: int) -> set[str]:
    """The paths that a process, and all that it started, have open."""
    found = set()
    for one in processes_of(pid):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{one}/fd"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(f"/proc/{one}/fd/{fd}"))
    return found
