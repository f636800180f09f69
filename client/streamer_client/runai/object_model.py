"""A model's files brought to a directory once, whatever number of processes asks for them.

Processes of one machine take turns by a lock beside the directory. A file in it says that it is
complete; it has Run:ai's name, so both packages understand each other's directories.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from types import TracebackType
from typing import Final, Literal, Self

from streamer_client.contract.errors import ConfigError, SourceNotFound
from streamer_client.contract.uris import scheme_of
from streamer_client.runai.credentials import S3Credentials
from streamer_client.runai.failures import as_value_error
from streamer_client.runai.pulling import pull_files
from streamer_client.storage.registry import object_store_schemes


class ObjectStorageModel:
    """Files of a model in an object store, mirrored to a directory.

    A context manager. The first process that comes brings the files; others wait for it and find
    them there. Left without error the directory counts as complete, else the next process begins
    anew.

    Args:
        model_path: the model's prefix.
        dst: the directory; what an attempt that failed left in it is removed.
        s3_credentials: win over the environment.

    Raises:
        ValueError: `model_path` is in no object store; also a StreamerError.
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
        self.dir = dst.rstrip("/") or "/"
        self._model_path = model_path
        self._credentials = s3_credentials
        self._complete_path = os.path.join(self.dir, self.SENTINEL_NAME)
        self._lock_fd = -1
        os.makedirs(os.path.dirname(os.path.abspath(self.dir)), exist_ok=True)
        self._lock_fd = os.open(self.dir + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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
        shutil.rmtree(self.dir, ignore_errors=True)
        os.makedirs(self.dir, exist_ok=True)
        return False

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
            with as_value_error():
                raise SourceNotFound(
                    f"{self._model_path}: no file was brought to {self.dir}; check the path and "
                    "the patterns"
                )
        os.close(os.open(self._complete_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
        self._is_complete = True

    def _unlock(self) -> None:
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)  # and with it the lock

    def __del__(self) -> None:
        if getattr(self, "_lock_fd", -1) >= 0:
            self._unlock()
