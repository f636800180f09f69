"""Starting one daemon for this user, however many ranks ask at the same time.

Owns the folder of the socket, the lock in it, the log, and waiting until the daemon is ready. The
daemon runs in a session of its own and is no child of this process, and so outlives this process:
vLLM's server kills all its descendants when it ends. The daemon ends by itself when it is no longer
used.

The daemon serves every rank of this user, so it inherits nothing from the rank that happened to be
first. This module sets what must be right before the daemon's program is loaded: its working
folder, its module path, umask, streams and descriptors. Affinity, niceness, limits and signals can
be changed only by the process itself. `streamerd.detached` does that as its first act: this process
has threads, and such code must not run between their fork and exec.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from streamer_client.connecting.private_files import (
    PRIVATE_FOLDER,
    is_still,
    make_folders,
    open_own,
    open_own_folder,
)
from streamer_client.connecting.trust import check_socket_place
from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.socket import MAX_SOCKET_PATH_BYTES

logger = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 60.0
LOG_TAIL_BYTES: Final = 2000
LOG_NAME: Final = "daemon.log"
LAST_LOG_NAME: Final = "daemon.log.1"
LOCK_NAME: Final = "launch.lock"
UMASK: Final = 0o077

_TRIAL_NAME: Final = "t"
"""The name of a socket that is made on trial; the name of every real socket is longer."""
_ORPHAN: Final = '"$@" >&2 & echo $!'
_ELSEWHERE: Final = "name a socket elsewhere with STREAMERD_SOCKET"

# -P: neither the working folder nor the folder of a script goes onto the module path.
_daemon_command: Sequence[str] = (sys.executable, "-P", "-m", "streamerd.detached")


class UnusablePlace(DaemonUnavailable):
    """No socket of this user can be made in this place; another place may do."""


# --- the folder -----------------------------------------------------------------------------------


@contextlib.contextmanager
def launch_lock(directory: str) -> Iterator[int]:
    """Hold the lock of a folder of this user's own, and give the folder's descriptor.

    The lock ends with the process that holds it.

    Raises:
        UnusablePlace: the folder or the lock in it is not this user's, or cannot be used.
    """
    with contextlib.ExitStack() as held:
        try:
            folder = open_own_folder(directory)
            held.callback(os.close, folder)
            held.callback(os.close, _locked(folder))
        except OSError as error:
            raise UnusablePlace(
                f"{os.path.join(directory, LOCK_NAME)} cannot be used: {error.strerror}; remove "
                f"what is there, or {_ELSEWHERE}"
            ) from error
        yield folder


def _locked(folder: int) -> int:
    while True:
        fd = open_own(LOCK_NAME, os.O_RDWR | os.O_CREAT, folder=folder)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if is_still(fd, LOCK_NAME, folder=folder):
            return fd
        os.close(fd)  # the file was removed meanwhile; others lock a new one


def private_directory(path: str) -> None:
    """Make the folder of a socket, or check that nobody else can put anything there.

    Raises:
        UnusablePlace: the folder is somebody else's, open to others, or cannot be made.
        UntrustedSocket: a folder above it is somebody else's or open to others.
    """
    check_socket_place(path, named=False)
    try:
        make_folders(path, PRIVATE_FOLDER)
        found = os.lstat(path)
    except OSError as error:
        raise UnusablePlace(
            f"the directory {path} for the socket cannot be made ({error.strerror}); {_ELSEWHERE}"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise UnusablePlace(
            f"{path} is not a directory of user {os.geteuid()}; somebody else made it. "
            f"Remove it, or {_ELSEWHERE}"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnusablePlace(
            f"{path} may be written to by others; chmod 0700 {path}, or {_ELSEWHERE}"
        )
    check_socket_place(path, named=False)  # again, as folders that were missing exist now


def check_room_for_socket(socket_path: str, folder: int) -> None:
    """Try whether a socket can be made there; the caller has the folder's lock.

    Raises:
        UnusablePlace: the path is too long, or the filesystem has no sockets.
    """
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH_BYTES:
        raise UnusablePlace(
            f"the socket path {socket_path} has more than {MAX_SOCKET_PATH_BYTES} bytes; "
            f"{_ELSEWHERE}"
        )
    trial = os.path.join(os.path.dirname(socket_path), _TRIAL_NAME)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as made:
        try:
            _remove(_TRIAL_NAME, folder)  # a rank that was killed may have left it
            made.bind(trial)
            os.unlink(_TRIAL_NAME, dir_fd=folder)
        except OSError as error:
            raise UnusablePlace(
                f"no socket can be made in {os.path.dirname(socket_path)} ({error.strerror}); "
                f"{_ELSEWHERE}"
            ) from error


def _remove(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


# --- the daemon -----------------------------------------------------------------------------------


def start_daemon(socket_path: str, timeout_s: float = READY_TIMEOUT_S) -> int:
    """Start `streamerd --ephemeral` at the socket and wait until it answers; returns its pid.

    Raises:
        DaemonUnavailable: the daemon did not come up; the text has the end of its log.
    """
    directory = os.path.dirname(socket_path)
    log_path = os.path.join(directory, LOG_NAME)
    with contextlib.ExitStack() as held:
        try:
            folder = open_own_folder(directory)
            held.callback(os.close, folder)
            log_fd = _fresh_log(folder)
        except OSError as error:
            raise UnusablePlace(
                f"{log_path} cannot be written: {error.strerror}; remove what is there, or "
                f"{_ELSEWHERE}"
            ) from error
        held.callback(os.close, log_fd)
        ready, told = os.pipe()
        held.callback(os.close, ready)
        try:
            options = ("--ephemeral", "--socket", socket_path, "--ready-fd", str(told))
            pid = _spawn_orphan([*_daemon_command, *options], told, log_fd, log_path)
        finally:
            os.close(told)
        _await_ready(ready, pid, log_fd, log_path, timeout_s)
    logger.info("event=daemon_started pid=%d socket=%s log=%s", pid, socket_path, log_path)
    return pid


def _fresh_log(folder: int) -> int:
    """A new log for this run; the log of the previous run stays beside it."""
    with contextlib.suppress(FileNotFoundError):
        # Whatever has this name is moved and not opened, so that a link is not followed.
        os.rename(LOG_NAME, LAST_LOG_NAME, src_dir_fd=folder, dst_dir_fd=folder)
    return open_own(LOG_NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, folder=folder)


_NOT_THE_DAEMONS: Final = re.compile(
    # These change how the first rank's own program runs; the daemon reads none of them.
    "LD_PRELOAD|PYTHON(BREAKPOINT|INSPECT|STARTUP|UNBUFFERED|WARNINGS)"
    # These describe the service that the first rank is: readiness, watchdog, sockets and folders.
    "|NOTIFY_SOCKET|WATCHDOG_.*|LISTEN_.*|MAINPID|INVOCATION_ID|JOURNAL_STREAM|MEMORY_PRESSURE_.*"
    "|(RUNTIME|STATE|CACHE|LOGS|CONFIGURATION|CREDENTIALS)_DIRECTORY"
    # These are for reading sources: each load sends its own, and they are dropped with the load.
    # SSL_CERT_FILE is among them, as it would decide whom all later loads trust.
    "|SSL_CERT_FILE|SSLKEYLOGFILE"
    "|(AWS|AZURE|GOOGLE|GCS|HF|RUNAI)_.*|.*(TOKEN|SECRET|PASSWORD|CREDENTIAL|API_KEY|_PROXY).*",
    re.IGNORECASE,
)
"""Variables of the rank that starts the daemon; they are not passed on to the daemon."""


def daemon_environment(environ: Mapping[str, str], working_folder: str) -> dict[str, str]:
    """The environment for a daemon that runs in / instead of the rank's working folder. Pure.

    Settings of streamerd stay. Entries of PYTHONPATH keep their meaning, except those that name the
    working folder: modules there concern the first rank only.
    """
    made = {
        name: value
        for name, value in environ.items()
        if name.startswith("STREAMERD_") or not _NOT_THE_DAEMONS.fullmatch(name)
    }
    entries = [
        os.path.join(working_folder, entry)
        for entry in made.pop("PYTHONPATH", "").split(os.pathsep)
        if os.path.isabs(entry) or os.path.normpath(entry) != "."
    ]
    return made | ({"PYTHONPATH": os.pathsep.join(entries)} if entries else {})


def _spawn_orphan(command: Sequence[str], told: int, log_fd: int, log_path: str) -> int:
    """Start a command as an orphan, whose parent is init, and return its pid."""
    shell = subprocess.run(
        ["/bin/sh", "-c", _ORPHAN, "sh", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log_fd,
        pass_fds=[told],
        cwd="/",
        env=daemon_environment(os.environ, _working_folder()),
        umask=UMASK,
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


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # the folder was removed, so nothing is found there
        return "/"


def _await_ready(ready: int, pid: int, log_fd: int, log_path: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    answered, _, _ = select.select([ready], [], [], max(0.0, deadline - time.monotonic()))
    if answered and os.read(ready, 16):
        return
    if not answered:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    what = "ended before it was ready" if answered else f"was not ready within {timeout_s} s"
    raise DaemonUnavailable(
        f"streamerd, started for this user, {what}; the end of its log {log_path}: {_tail(log_fd)}"
    )


def _tail(fd: int) -> str:
    start = max(0, os.fstat(fd).st_size - LOG_TAIL_BYTES)
    return os.pread(fd, LOG_TAIL_BYTES, start).decode(errors="replace").strip() or "(empty)"
