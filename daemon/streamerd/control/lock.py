"""One daemon for each socket: a lock (flock) that the kernel releases when the process ends.

The lock, not the socket file, says whether a daemon is alive, so a stale socket file is harmless.
The daemon that holds it may make and remove the files beside the socket. Nothing is written to the
lock file before it is certain that the file is this user's own, and still the one that another
daemon would lock. Used in the daemon's main process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final, Self

from streamer_client.connecting.private_files import (
    PRIVATE_FOLDER,
    is_still,
    make_folders,
    open_own,
)
from streamer_client.contract.errors import ConfigError

SHARED_FOLDER: Final = 0o755
"""Mode of a folder that is made for a socket of several users. Users who may not use the socket can
see that it exists, so that they are told why."""


class SocketLock:
    """Holds `<socket>.lock`; use as a context manager around the daemon's life.

    Args:
        socket_path: the socket.
        private: whether the folder, if it must be made, is for this user alone.
    """

    def __init__(self, socket_path: str, *, private: bool = True) -> None:
        self._socket_path = socket_path
        self._private = private
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Take the lock; make the socket's directory if it is missing.

        Raises:
            ConfigError: another daemon has it, or the directory or the file cannot be used.
        """
        folder_path, name = os.path.split(self._socket_path + ".lock")
        try:
            make_folders(folder_path, PRIVATE_FOLDER if self._private else SHARED_FOLDER)
            folder = os.open(folder_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._held.callback(os.close, folder)
            fd = self._locked(name, folder)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self._held.close()
            where = os.path.join(folder_path, str(error.filename or name))
            raise ConfigError(
                f"cannot use socket {self._socket_path}: {error.strerror} ({where}); remove what "
                "is there if it is not a daemon's, choose another with --socket, or run with the "
                "rights to make it"
            ) from error
        except ConfigError:
            self._held.close()
            raise
        return self

    def _locked(self, name: str, folder: int) -> int:
        while True:
            fd = open_own(name, os.O_RDWR | os.O_CREAT, folder=folder)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(fd)
                raise ConfigError(
                    f"a streamerd (pid {holder}) already serves {self._socket_path}; stop it first "
                    "or choose another --socket"
                ) from error
            if is_still(fd, name, folder=folder):
                self._held.callback(os.close, fd)
                return fd
            os.close(fd)  # the file was removed meanwhile, so others would lock another file

    def __exit__(self, *_exc: object) -> None:
        # The file stays: unlinking it would let two daemons lock two files of one name.
        self._held.close()
