"""A directory to which one model's files are brought once, however many processes ask.

Processes of one machine take turns by a lock beside the directory. A file in the directory marks it
as complete. That file has Run:ai's name, so that both packages understand each other's directories.
`ObjectStorageModel` decides what is brought, and from where. Runs in the calling process and
thread.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from typing import Final

from streamer_client.contract.errors import ConfigError, SourceNotFound
from streamer_client.runai.failures import as_os_error, as_runtime_error
from streamer_client.storage.os_errors import source_error, working_directory

SENTINEL_NAME: Final = ".runai_complete"

_BEGUN: Final = b"begun by streamer_client in directory "
"""The lock file holds this text and the directory's inode from the beginning of an attempt in an
empty or missing directory until one completes it. So all files in the directory came from such
attempts."""
_MAX_LOCK_BYTES: Final = 256


def own_directory(dst: str) -> str:
    """A directory that may be used for one model's files alone, without its trailing slashes.

    Raises:
        ConfigError: the text is no name, or the directory is the root of a file system, or above
            this process's home or working directory, from which leftovers of an attempt could not
            be removed. Or the working directory was removed.
    """
    if not dst.strip():
        raise ConfigError("dst is empty; name the directory that the model's files are brought to")
    here = working_directory()  # first, as a relative dst depends on it
    real = os.path.realpath(dst)
    others = {os.path.realpath(other) for other in (here, os.path.expanduser("~"))}
    if os.path.ismount(real) or any(os.path.commonpath((real, one)) == real for one in others):
        raise ConfigError(
            f"dst is {dst!r}, {real}, which holds more than one model's files; name a directory "
            "of the model's own, such as one below it"
        )
    plain = dst.rstrip("/")
    # The lock lies beside the directory, but a lock beside `model/.` would be inside it.
    return real if os.path.basename(plain) in (".", "..") else plain


class ModelDirectory:
    """The directory while this object holds its lock: complete, or empty and to be filled.

    Args:
        source: the source of the files, for the text of errors.
        dst: the directory. Leftovers of an attempt of this class are removed from it. A directory
            that holds anything else is refused, and so is one that is not a model's alone.

    Raises:
        ConfigError: `dst`, or the file at the place of its lock, is not this model's own.
        SourceError: the directory or its lock cannot be made; also an OSError.
    """

    def __init__(self, source: str, dst: str) -> None:
        self._lock_fd = -1
        self.path = own_directory(dst)
        self.is_complete = False
        self._source = source
        self._lock_path = f"{self.path}.lock"
        self._sentinel_path = os.path.join(self.path, SENTINEL_NAME)
        self._owner_pid = os.getpid()
        try:
            self._open_lock()
            self.is_complete = self._settle()
        except OSError as error:
            self.release()
            with as_os_error():
                raise source_error(str(error.filename or self.path), error, "make it") from error
        except BaseException:
            self.release()
            raise

    def _open_lock(self) -> None:
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        # A link or a pipe that others put there must not lead this process elsewhere or hold it up.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._lock_fd = os.open(self._lock_path, flags, 0o666)
        status = os.fstat(self._lock_fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise self._foreign_lock("it is no plain file, or has a second name")

    def _foreign_lock(self, why: str) -> ConfigError:
        return ConfigError(
            f"{self._lock_path} is no lock of {self.path}: {why}, and it is not written to; "
            "name another directory"
        )

    def _lock_content(self) -> bytes:
        return os.pread(self._lock_fd, _MAX_LOCK_BYTES, 0)

    def _settle(self) -> bool:
        """Wait for other processes; return whether the directory is complete, not empty."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_SH)
        content = self._lock_content()
        if content and not content.startswith(_BEGUN):
            raise self._foreign_lock("it holds what another program wrote")
        if self._was_completed():
            return True
        # A shared lock is never upgraded to an exclusive one: two that try would wait for each
        # other.
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        if self._was_completed():
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH)  # downgraded: others may look at it, too
            return True
        self._clear()
        return False

    def _was_completed(self) -> bool:
        # A store may hold a file of the sentinel's name, which an attempt then brought like any
        # other.
        return os.path.exists(self._sentinel_path) and not self._is_left_over()

    def _clear(self) -> None:
        """Make the directory empty, if the lock file says that its content may be removed."""
        if self._is_left_over():
            _remove_content(self.path)
        elif os.path.lexists(self.path) and (not os.path.isdir(self.path) or os.listdir(self.path)):
            raise ConfigError(
                f"{self.path} holds something that no attempt to bring {self._source} is known "
                "to have left there, and it is not removed; empty it, or name another directory"
            )
        os.makedirs(self.path, exist_ok=True)
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, self._mark(), 0)

    def _mark(self) -> bytes:
        return _BEGUN + b"%d\n" % os.stat(self.path).st_ino

    def _is_left_over(self) -> bool:
        """Whether this user made the lock file, and it says that this directory holds leftovers.

        Others may plant such a file. And somebody who replaced the leftovers by a directory of
        their own wants to keep it.
        """
        own = os.fstat(self._lock_fd).st_uid == os.geteuid()
        return own and os.path.isdir(self.path) and self._lock_content() == self._mark()

    def finish(self) -> None:
        """Mark the directory as complete.

        Raises:
            SourceNotFound: no file was brought to it; also a RuntimeError.
        """
        if not os.listdir(self.path):
            with as_runtime_error():
                raise SourceNotFound(
                    f"{self._source}: no file was brought to {self.path}; check the path and "
                    "the patterns"
                )
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        os.close(os.open(self._sentinel_path, flags, 0o666))
        # Somebody who later removes the mark of completeness may have put files of their own there.
        os.ftruncate(self._lock_fd, 0)

    def release(self) -> None:
        """Let the next process in. Idempotent.

        The lock belongs to all copies of its descriptor. So it is released explicitly: a child that
        was forked meanwhile cannot hold it longer than this process.
        """
        fd, self._lock_fd = self._lock_fd, -1
        if fd < 0:
            return
        if os.getpid() == self._owner_pid:
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _remove_content(directory: str) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
