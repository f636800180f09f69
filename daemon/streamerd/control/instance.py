"""The instance: random digits in the names of one daemon's slabs, the same over its restarts.

The digits are noted beside the socket, in `<socket>.instance`. If they were made from the socket's
path, two daemons that use one path in two mount namespaces and share /dev/shm would have the same
digits. Each would then adopt or remove the other's slabs. Runs in the daemon's main process, under
the socket's lock.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from typing import Final, Self

from streamer_client.connecting.private_files import open_own, unlink_if_still
from streamer_client.contract.errors import ConfigError
from streamerd.memory.others import INSTANCE_SUFFIX

logger = logging.getLogger(__name__)

SUFFIX: Final = INSTANCE_SUFFIX
_DIGITS: Final = re.compile(rb"([0-9a-f]{8})\n")
_OPEN_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Instance:
    """The instance of the daemon that holds a socket's lock. Made by `Instance.of`.

    The file stays open, so that its inode is not given to a later file, which could be mistaken for
    it.
    """

    def __init__(self, name: str, path: str, fd: int) -> None:
        self.name = name
        """Eight hexadecimal digits."""
        self._path = path
        self._fd = fd

    @classmethod
    def of(cls, socket_path: str) -> Self:
        """The instance that an earlier daemon at this socket noted, or else a new one.

        Raises:
            ConfigError: the file cannot be made, or is not this user's.
        """
        path = socket_path + SUFFIX
        folder = -1
        try:
            folder = os.open(os.path.dirname(path), _OPEN_FOLDER)
            fd, found = _opened(os.path.basename(path), folder)
        except OSError as error:
            raise ConfigError(
                f"cannot use {path}: {error.strerror}; remove it if it is not a daemon's, let this "
                "user write beside the socket, or choose another --socket"
            ) from error
        finally:
            if folder >= 0:
                os.close(folder)
        return cls(found, path, fd)

    def remove(self) -> None:
        """Remove the file, if the daemon left no slabs; another daemon's file stays."""
        try:
            folder = os.open(os.path.dirname(self._path), _OPEN_FOLDER)
        except FileNotFoundError:
            return
        try:
            unlink_if_still(self._fd, os.path.basename(self._path), folder=folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def read_instance(socket_path: str) -> str | None:
    """The instance of the daemon at a socket; None if none is noted or the file is not readable."""
    path = socket_path + SUFFIX
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return _read(fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _opened(name: str, folder: int) -> tuple[int, str]:
    try:
        fd = open_own(name, os.O_RDONLY, folder=folder)
    except FileNotFoundError:
        return _made(name, folder)
    found = _read(fd)
    if found is not None:
        return fd, found
    logger.warning("event=instance_file_replaced file=%s reason=%r", name, "not understood")
    unlink_if_still(fd, name, folder=folder)
    os.close(fd)
    return _made(name, folder)


def _made(name: str, folder: int) -> tuple[int, str]:
    fd = open_own(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, folder=folder)
    made = secrets.token_hex(4)
    os.write(fd, f"{made}\n".encode())
    return fd, made


def _read(fd: int) -> str | None:
    found = _DIGITS.fullmatch(os.pread(fd, 16, 0))
    return found[1].decode() if found else None
