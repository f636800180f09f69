"""The meaning of the operating system's refusals to somebody who loads a checkpoint.

Turns an `OSError` into a typed error with a remedy. `source_error` is for files that are reached by
a path. `descriptor_error` is for files that are read through another process's descriptor; it looks
at no path. `absolute_path` and `real_path` detect a working directory that is gone.
"""

from __future__ import annotations

import errno
import os

from streamer_client.contract.errors import (
    ConfigError,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)


def source_error(path: str, error: OSError, doing: str) -> SourceError:
    """The typed error for a system call on `path` that failed.

    Args:
        path: the path of the system call.
        error: the system's refusal.
        doing: the attempted action, for example `open` or `read bytes 0 to 4096`.
    """
    if isinstance(error, PermissionError):
        return SourceForbidden(
            f"{path}: no permission for user id {os.geteuid()} to {doing} (refused at "
            f"{_refused_at(path)}); let this user read the files and enter their directories, "
            "for example by `chmod -R o+rX`"
        )
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return SourceError(
            f"{path}: a symbolic link to {os.readlink(path)}, which does not exist; "
            "download the checkpoint again, or correct the link"
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return SourceNotFound(
            f"{path}: no such file or directory; check the path for typing errors"
        )
    return SourceError(
        f"{path}: could not {doing}: {os.strerror(error.errno or 0)}; {_remedy(error)}"
    )


def descriptor_error(uri: str, error: OSError, doing: str) -> SourceError:
    """The typed error for a system call on an open file that failed.

    No path is looked at. Another process named the file, and the same path may mean another file
    here, or a mount that hangs.

    Args:
        uri: the name that the process which opened the file gave it.
        error: the system's refusal.
        doing: the attempted action.
    """
    if isinstance(error, PermissionError):
        return SourceForbidden(
            f"{uri}: may not {doing} through the descriptor that it was opened with "
            f"({os.strerror(error.errno or 0)}); open the file for reading, as a user who may"
        )
    return SourceError(
        f"{uri}: could not {doing}: {os.strerror(error.errno or 0)}; {_remedy(error)}"
    )


def _remedy(error: OSError) -> str:
    match error.errno:
        case errno.EMFILE | errno.ENFILE:
            return "raise the limit of open files (`ulimit -n`, LimitNOFILE)"
        case errno.ESTALE | errno.ENOTCONN:
            return "the server behind its mount is gone or forgot it: mount it again"
        case errno.EIO | errno.ENXIO | errno.ENODEV:
            return "the disk or mount reports a fault: see the kernel's log"
        case errno.ELOOP:
            return "its symbolic links lead round in a circle; correct them"
        case errno.ENAMETOOLONG:
            return "the path is too long for this file system"
        case _:
            return "check the file system that it is on"


def _refused_at(path: str) -> str:
    """The first directory on the way that may not be entered, or else the path itself."""
    ancestor = "/"
    for part in os.path.dirname(absolute_path(path)).split("/"):
        ancestor = os.path.join(ancestor, part)
        if not os.access(ancestor, os.X_OK, effective_ids=True):
            return ancestor
    return path


def working_directory() -> str:
    """This process's working directory.

    Raises:
        ConfigError: the directory was removed, so that no relative path means anything.
    """
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "this process's working directory was removed; change to one that exists"
        ) from error


def absolute_path(path: str) -> str:
    """The absolute form of a path in this process.

    Raises:
        ConfigError: the path is relative, and the working directory was removed.
    """
    return os.path.normpath(_from_root(path))


def real_path(path: str) -> str:
    """The path without symbolic links.

    Raises:
        ConfigError: the path is relative, and the working directory was removed.
    """
    return os.path.realpath(_from_root(path))


def _from_root(path: str) -> str:
    return path if os.path.isabs(path) else os.path.join(working_directory(), path)
