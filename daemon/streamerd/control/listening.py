"""The daemon's listening Unix sockets as files: made and removed without touching another daemon's.

This module owns the file at a socket's path. libzmq gets a descriptor that listens already
(`USE_FD`). If libzmq bound the path itself, it would also unlink the path at the end, whatever file
is there by then. Runs in the daemon's main process, under the socket's lock, so no other daemon
uses the path.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import Final

from streamer_client.connecting.private_files import FileId, id_of
from streamer_client.contract.errors import ConfigError
from streamer_client.contract.socket import SUN_PATH_BYTES

BACKLOG: Final = 4096
"""How many connections may wait to be accepted. A client that finds no room is refused at once. The
kernel caps this at somaxconn, whose default is the same."""


class Listening:
    """A listening socket and its name in the filesystem. Made by `listen`."""

    def __init__(self, made: socket.socket, path: str, file_id: FileId) -> None:
        self.socket = made
        self.path = path
        self._id = file_id

    def fileno(self) -> int:
        return self.socket.fileno()

    def duplicate(self) -> int:
        """A second descriptor of the socket, for libzmq, which closes the one that it gets."""
        return os.dup(self.socket.fileno())

    def close(self) -> None:
        """Unlink the path if it still is this socket's, then close the socket. Idempotent."""
        if self.socket.fileno() < 0:
            return
        # The path is unlinked first: while the socket is open, no other file has its inode number.
        with contextlib.suppress(OSError):
            if id_of(os.lstat(self.path)) == self._id:
                os.unlink(self.path)
        self.socket.close()


def listen(path: str, mode: int, kind: socket.SocketKind) -> Listening:
    """Make a listening socket; replace a socket that a killed daemon left at the path.

    Args:
        path: the path of the socket.
        mode: permissions of its file, from the moment when the file appears.
        kind: `SOCK_STREAM` for ZeroMQ, `SOCK_SEQPACKET` for descriptors.

    Raises:
        ConfigError: another kind of file is at the path, or no socket can be made there.
    """
    if len(os.fsencode(path)) > SUN_PATH_BYTES:
        raise ConfigError(
            f"{path} has more than the {SUN_PATH_BYTES} bytes of a unix socket's path; choose a "
            "shorter --socket"
        )
    made = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        _remove_stale(path)
        _bind(made, path, mode)
        found = id_of(os.lstat(path))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"cannot listen on {path}: {error.strerror}; let this user write to the folder, or "
            "choose another --socket"
        ) from error
    except ConfigError:
        made.close()
        raise
    return Listening(made, path, found)


def _remove_stale(path: str) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        what = f"a socket of user {found.st_uid}" if stat.S_ISSOCK(found.st_mode) else "no socket"
        raise ConfigError(
            f"cannot listen on {path}: what is there is {what}; remove it, or choose another "
            "--socket"
        )
    os.unlink(path)


def _bind(made: socket.socket, path: str, mode: int) -> None:
    # The umask sets the mode. Before a chmod afterwards, strangers could connect, or a client that
    # looks for its new daemon would be refused.
    umask = os.umask(0o777 & ~mode)
    try:
        made.bind(path)
    finally:
        os.umask(umask)
