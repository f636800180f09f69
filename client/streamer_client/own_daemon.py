"""Starting a daemon for this user: one, however many ranks ask at the same time.

Owns the lock, the directory of the socket, and waiting until the daemon is ready. The daemon is
nobody's child, in a session of its own, and outlives this process: vLLM's server kills all its
descendants at the end. It leaves by itself when it is no longer used.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final

from streamer_client.contract.errors import DaemonUnavailable

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 60.0
LOG_TAIL_BYTES: Final = 2000
LOG_NAME: Final = "daemon.log"
LOCK_NAME: Final = "launch.lock"

_ORPHAN: Final = '"$@" >&2 & echo $!'

_daemon_command: Sequence[str] = (sys.executable, "-m", "streamerd")


@contextlib.contextmanager
def launch_lock(directory: str) -> Iterator[None]:
    """Hold the directory's lock; it ends with the process that holds it."""
    path = os.path.join(directory, LOCK_NAME)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def private_directory(path: str) -> None:
    """Make the socket's directory, or check that nobody else can put anything there.

    Raises:
        DaemonUnavailable: it is somebody else's, or open to others.
    """
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise DaemonUnavailable(
            f"the directory {path} for the socket cannot be made ({error.strerror}); "
            "name a socket elsewhere with STREAMERD_SOCKET"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise DaemonUnavailable(
            f"{path} is not a directory of user {os.getuid()}; somebody else made it. "
            "Remove it, or name a socket elsewhere with STREAMERD_SOCKET"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DaemonUnavailable(
            f"{path} may be written to by others; chmod 0700 {path}, or name a socket elsewhere "
            "with STREAMERD_SOCKET"
        )


def start_daemon(socket_path: str, timeout_s: float = READY_TIMEOUT_S) -> int:
    """Start `streamerd --ephemeral` at the socket and wait until it answers; returns its pid.

    Raises:
        DaemonUnavailable: it did not come up; the text has the end of its log.
    """
    log_path = os.path.join(os.path.dirname(socket_path), LOG_NAME)
    ready, told = os.pipe()
    try:
        options = ("--ephemeral", "--socket", socket_path, "--ready-fd", str(told))
        pid = _spawn_orphan([*_daemon_command, *options], told, log_path)
        os.close(told)
        told = -1
        _await_ready(ready, pid, log_path, timeout_s)
    finally:
        os.close(ready)
        if told >= 0:
            os.close(told)
    log.info("event=daemon_started pid=%d socket=%s log=%s", pid, socket_path, log_path)
    return pid


def _spawn_orphan(command: Sequence[str], told: int, log_path: str) -> int:
    """Start a command that init adopts at once: the shell that starts it ends; returns its pid."""
    with open(log_path, "ab", opener=_open_private) as log_file:
        shell = subprocess.run(
            ["/bin/sh", "-c", _ORPHAN, "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            pass_fds=[told],
            start_new_session=True,
            text=True,
            check=False,
        )
    try:
        return int(shell.stdout)
    except ValueError as error:
        raise DaemonUnavailable(
            f"streamerd could not be started for this user; see {log_path}"
        ) from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _await_ready(ready: int, pid: int, log_path: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    answered, _, _ = select.select([ready], [], [], max(0.0, deadline - time.monotonic()))
    if answered and os.read(ready, 16):
        return
    if not answered:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    what = "ended before it was ready" if answered else f"was not ready within {timeout_s} s"
    raise DaemonUnavailable(
        f"streamerd, started for this user, {what}; the end of its log {log_path}: "
        f"{_tail(log_path)}"
    )


def _tail(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip() or "(empty)"
