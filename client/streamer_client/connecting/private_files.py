"""Small files of this user in a folder that others may reach: locks, logs, and notes.

Owns how such files are opened, checked and removed. Nothing that somebody else put there is read,
written, truncated or removed: links are not followed, and a file must be a regular file of this
user with no second name. Client and daemon both use it. Each call blocks for a few system calls.
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
    """Tells a file from a later one of the same name, while one of the two is held open."""

    device: int
    inode: int


def id_of(found: os.stat_result) -> FileId:
    return FileId(found.st_dev, found.st_ino)


def make_folders(path: str, mode: int) -> None:
    """Make a folder, and each missing folder above it for this user alone.

    Args:
        path: path of the folder; nothing happens if it exists.
        mode: permissions of the folder itself, whatever the umask says.

    Raises:
        OSError: the folder cannot be made, or something else has its name.
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
    """Open a folder and return its descriptor; the last component must not be a link.

    Raises:
        OSError: the folder is missing, may not be opened, or is something else.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def open_own_folder(path: str) -> int:
    """Open a folder that belongs to this user and that nobody else may write to.

    Raises:
        OSError: the folder is missing, may not be opened, or is something else.
        NotOurs: the folder belongs to somebody else, or others may write to it.
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
        name: name of the file, without a slash.
        flags: flags of open(2). `O_TRUNC` must not be among them, as it would truncate the file
            before it is checked; truncate afterwards.
        folder: descriptor of the folder.

    Raises:
        OSError: the file cannot be opened; a symbolic link gives ELOOP.
        NotOurs: the file is not regular, belongs to somebody else, or has a second name.
    """
    safe = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # without it, open() would wait at a FIFO
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
    """Whether a name in a folder still names this open file."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return id_of(found) == id_of(os.fstat(fd))


def unlink_if_still(fd: int, name: str, *, folder: int) -> bool:
    """Unlink a name if it still names this open file; return whether it did."""
    if not is_still(fd, name, folder=folder):
        return False
    os.unlink(name, dir_fd=folder)
    return True
