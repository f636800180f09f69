"""A model's files brought to a directory once, whatever number of processes asks for them.

Processes of one machine take turns by a lock beside the directory. A file in the directory says
that it is complete; that file has Run:ai's name, so that both packages understand each other's
directories. Runs in the calling process and thread.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from types import TracebackType
from typing import Final, Literal, Self

from streamer_client.contract.errors import ConfigError, SourceNotFound
from streamer_client.contract.uris import scheme_of
from streamer_client.runai.failures import as_runtime_error
from streamer_client.runai.pulling import pull_files
from streamer_client.runai.s3_utils.s3_utils import S3Credentials
from streamer_client.storage.registry import object_store_schemes

_BEGUN: Final = b"begun by streamer_client\n"
"""In the lock file: the directory beside it was empty or missing when an attempt began, and none
has completed it since. So all that lies in it came from such attempts."""


def own_directory(dst: str) -> str:
    """A directory that a model's files alone can be mirrored to, without its trailing slashes.

    Raises:
        ConfigError: it is no name, the root of a file system, or above this process's home or
            working directory: whatever an attempt left in it could not be removed again.
    """
    if not dst.strip():
        raise ConfigError("dst is empty; name the directory that the model's files are brought to")
    real = os.path.realpath(dst)
    others = {os.path.realpath(other) for other in (os.getcwd(), os.path.expanduser("~"))}
    if os.path.ismount(real) or any(os.path.commonpath((real, one)) == real for one in others):
        raise ConfigError(
            f"dst is {dst!r}, {real}, which holds more than one model's files; name a directory "
            "of the model's own, such as one below it"
        )
    return dst.rstrip("/")


class ObjectStorageModel:
    """Files of a model in an object store, mirrored to a directory.

    A context manager. The first process that comes brings the files; others wait for it and find
    them there. Left without error the directory counts as complete, else the next process begins
    anew.

    Args:
        model_path: the model's prefix.
        dst: the directory. What an attempt of this class left in it is removed; a directory that
            holds anything else is refused, and so is one that is more than a model's.
        s3_credentials: win over the environment.

    Raises:
        ValueError: `model_path` is in no object store, or `dst` cannot be this model's own
            directory; also a StreamerError.
    """

    SENTINEL_NAME: Final = ".runai_complete"

    def __init__(
        self, model_path: str, dst: str, s3_credentials: S3Credentials | None = None
    ) -> None:
        schemes = object_store_schemes()
        if scheme_of(model_path) not in schemes:
            raise ConfigError(
                f"{model_path!r} is in no object store; write {', '.join(schemes)}://..., "
                "or use a local directory as it is"
            )
        self.dir = own_directory(dst)
        self._model_path = model_path
        self._credentials = s3_credentials
        self._complete_path = os.path.join(self.dir, self.SENTINEL_NAME)
        self._lock_fd = -1
        os.makedirs(os.path.dirname(os.path.abspath(self.dir)), exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock_fd = os.open(self.dir + ".lock", flags, 0o666)
        try:
            self._is_complete = self._settle()
        except BaseException:
            self._unlock()
            raise

    def _settle(self) -> bool:
        """Wait for whoever works on the directory; whether it is complete, else it is ours."""
        fcntl.flock(self._lock_fd, fcntl.LOCK_SH)
        if os.path.exists(self._complete_path):
            return True
        # A shared lock is never raised to an exclusive one: two that try wait for each other.
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        if os.path.exists(self._complete_path):
            fcntl.flock(self._lock_fd, fcntl.LOCK_SH)  # lowered: others may look at the same time
            return True
        self._clear()
        return False

    def _clear(self) -> None:
        """Make the directory empty; the lock file says whether what is in it may be removed."""
        if self._is_left_over():
            shutil.rmtree(self.dir, ignore_errors=True)
        elif os.path.lexists(self.dir) and (not os.path.isdir(self.dir) or os.listdir(self.dir)):
            raise ConfigError(
                f"{self.dir} holds something that no attempt to bring {self._model_path} is known "
                "to have left there, and it is not removed; empty it, or name another directory"
            )
        os.makedirs(self.dir, exist_ok=True)
        os.pwrite(self._lock_fd, _BEGUN, 0)

    def _is_left_over(self) -> bool:
        """Whether the lock file says so, and this user made it: others may plant such a file."""
        own = os.fstat(self._lock_fd).st_uid == os.geteuid()
        return own and os.pread(self._lock_fd, len(_BEGUN), 0) == _BEGUN

    def pull_files(
        self,
        allow_pattern: list[str] | None = None,
        ignore_pattern: list[str] | None = None,
    ) -> None:
        """Bring files; see `pull_files`. Does nothing where the directory is complete."""
        if not self._is_complete:
            pull_files(self._model_path, self.dir, allow_pattern, ignore_pattern, self._credentials)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> Literal[False]:
        try:
            if exc_type is None and not self._is_complete:
                self._finish()
        finally:
            self._unlock()
        return False

    def _finish(self) -> None:
        if not os.listdir(self.dir):
            with as_runtime_error():
                raise SourceNotFound(
                    f"{self._model_path}: no file was brought to {self.dir}; check the path and "
                    "the patterns"
                )
        os.close(os.open(self._complete_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        # Who takes the mark of completeness away later may have put files of his own there.
        os.ftruncate(self._lock_fd, 0)
        self._is_complete = True

    def _unlock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)  # and with it the lock

    def __del__(self) -> None:
        if getattr(self, "_lock_fd", -1) >= 0:
            self._unlock()
