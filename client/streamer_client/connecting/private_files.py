"""Small files of this user in a folder that others may reach: locks, logs, notes by a socket.

Owns how such files are opened, looked at and removed, so that nothing which somebody else put there
is read, written, truncated or removed: links are not followed, and a file counts only if it is a
regular one of this user with no second name. Client and daemon both use it. Blocking, a few system
calls each.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, NamedTuple

PRIVATE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


class NotOurs(OSError):
    """Something else stands where a file or folder of this user should be."""


class FileId(NamedTuple):
    """Tells a file from a later one of the same name, as long as one of the two is held open."""

    device: int
    inode: int


def id_of(found: os.stat_result) -> FileId:
    return FileId(found.st_dev, found.st_ino)


def make_folders(path: str, mode: int) -> None:
    """Make a folder and what is missing above it, which is for this user alone.

    Args:
        path: of the folder; nothing happens where it is.
        mode: the folder's own, whatever the umask says.

    Raises:
        OSError: it cannot be made, or something else is there.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    if above != path:
        make_folders(above, PRIVATE_FOLDER)
    try:
        os.mkdir(path, PRIVATE_FOLDER)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return  # another process was faster
    if mode != PRIVATE_FOLDER:
        os.chmod(path, mode)


def open_folder(path: str) -> int:
    """A descriptor of a folder, for all that is done in it; the last name is no link.

    Raises:
        OSError: there is none, it may not be opened, or it is something else.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_own_folder(path: str) -> int:
    """As `open_folder`, and it belongs to this user, who alone may write to it.

    Raises:
        OSError: as there.
        NotOurs: it belongs to somebody else, or others may write to it.
    """
    fd = open_folder(path)
    found = os.fstat(fd)
    wrong = ""
    if found.st_uid != os.geteuid():
        wrong = f"it belongs to user {found.st_uid}, not to user {os.geteuid()}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        wrong = f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    if wrong:
        os.close(fd)
        raise NotOurs(errno.EPERM, wrong, path)
    return fd


def open_own(name: str, flags: int, *, folder: int) -> int:
    """Open a file of this user by its name in a folder; a new one is made 0600.

    Args:
        name: without a slash.
        flags: of open(2). Truncate afterwards, not by `O_TRUNC`: that would come before the look.
        folder: its descriptor.

    Raises:
        OSError: it cannot be opened; a symbolic link gives ELOOP.
        NotOurs: it is not regular, belongs to somebody else, or has a second name.
    """
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO would wait for its other end
    fd = os.open(name, flags | safe, PRIVATE, dir_fd=folder)
    wrong = _not_ours(os.fstat(fd))
    if wrong:
        os.close(fd)
        raise NotOurs(errno.EPERM, wrong, name)
    return fd


def _not_ours(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "it is not a regular file"
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}, not to user {os.geteuid()}"
    if found.st_nlink > 1:
        return "it has a second name (hard link)"
    return ""


def is_still(fd: int, name: str, *, folder: int) -> bool:
    """Whether a name in a folder is, now, a name of this open file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return id_of(found) == id_of(os.fstat(fd))


def unlink_if_still(fd: int, name: str, *, folder: int) -> bool:
    """Unlink a name if it is one of this open file; whether it was."""
    if not is_still(fd, name, folder=folder):
        return False
    os.unlink(name, dir_fd=folder)
    return True
