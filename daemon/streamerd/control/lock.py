"""One daemon a socket: an flock held for life, which the kernel drops with the process.

The lock, not the socket file, says whether a daemon is alive; so a stale socket file is harmless.
"""

from __future__ import annotations

import fcntl
import os
from typing import Self

from streamer_client.contract.errors import ConfigError


class SocketLock:
    """Holds `<socket>.lock`; use as a context manager around the daemon's life."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._path = socket_path + ".lock"
        self._fd = -1

    def __enter__(self) -> Self:
        """Take the lock, making the socket's directory where it is missing.

        Raises:
            ConfigError: another daemon has it, or the directory cannot be used.
        """
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o750, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ConfigError(
                f"cannot use socket {self._socket_path}: {error.strerror} ({error.filename}); "
                "choose another with --socket, or run with the rights to make it"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode().strip() or "unknown"
            os.close(self._fd)
            raise ConfigError(
                f"a streamerd (pid {holder}) already serves {self._socket_path}; stop it first "
                "or choose another --socket"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, *_exc: object) -> None:
        # The file stays: unlinking it would let two daemons lock two files of one name.
        os.close(self._fd)
