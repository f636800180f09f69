"""Copies files of a source to a local directory: configuration, tokenizer, code, or all files.

Owns the destination of each file, and that each file appears whole. Runs in the calling process; a
few threads read files side by side, each with its own buffer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, NamedTuple, Self

from streamer_client.contract.errors import SourceError
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES
from streamer_client.contract.printable import printable
from streamer_client.contract.uris import is_remote
from streamer_client.delivery.concurrency import read_threads
from streamer_client.runai.failures import as_os_error, as_value_error
from streamer_client.runai.listing import Choice, found_under, storage_of, wanted
from streamer_client.runai.s3_utils.s3_utils import S3Credentials
from streamer_client.runai.settings import concurrency
from streamer_client.storage.contract import Storage, StoredShard
from streamer_client.storage.os_errors import real_path, source_error

logger = logging.getLogger(__name__)

_UNSAFE: Final = frozenset({".", ".."})
_NO_UNNAMED_FILES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
"""The errors by which file systems and old kernels refuse `O_TMPFILE`."""


class _Job(NamedTuple):
    """One file to copy, and its destination."""

    shard: StoredShard
    path: str


def pull_files(
    model_path: str,
    dst: str,
    allow_pattern: list[str] | None = None,
    ignore_pattern: list[str] | None = None,
    s3_credentials: S3Credentials | None = None,
) -> None:
    """Copy the files under `model_path`, at any depth, to the directory `dst`.

    Each file appears whole, and replaces an earlier file of its name. If the call fails, the files
    that were finished stay.

    Args:
        model_path: an object-store prefix, or a directory.
        dst: the directory to copy to; it is made if it does not exist.
        allow_pattern: globs; only matches are copied.
        ignore_pattern: globs; matches are left out.
        s3_credentials: used in place of the environment's.

    Raises:
        ValueError: there is nothing under `model_path`, a file cannot be read, or a key would lead
            out of `dst`; also a StreamerError.
    """

    def taken(uri: str, relative: str) -> bool:
        return wanted(uri, relative, allow_pattern, ignore_pattern)

    pull_chosen(os.fspath(model_path), os.fspath(dst), taken, s3_credentials)


def pull_chosen(
    source: str, dst: str, chosen: Choice, credentials: S3Credentials | None = None
) -> None:
    """Copy files as `pull_files` does, if `chosen(uri, name below the source)` is true."""
    began_s = time.perf_counter()
    with as_value_error():
        directory = real_path(dst)
        storage = storage_of(source, credentials)
        jobs = [
            _Job(shard, destination(directory, relative, shard.uri))
            for shard, relative in found_under(storage, source, chosen)
        ]
        _check_distinct(jobs)
        _pull_all(storage, jobs, concurrency(os.environ, source))
    logger.info(
        "event=pulled source=%s files=%d bytes=%d seconds=%.3f to=%s",
        printable(source),
        len(jobs),
        sum(job.shard.size_bytes for job in jobs),
        time.perf_counter() - began_s,
        directory,
    )


def destination(directory: str, relative: str, uri: str) -> str:
    """The path to which a file is copied, always under `directory`.

    Args:
        directory: path without symbolic links.
        relative: the file's name below its source.
        uri: the file, for the text of errors.

    Raises:
        SourceError: the name, or a link on its way, leads elsewhere.
    """
    # Keys may begin with a slash or have several in a row; a path needs one between its parts.
    parts = [part for part in relative.split("/") if part]
    path = os.path.join(directory, *parts)
    inside = os.path.realpath(os.path.dirname(path))
    if (
        not parts
        or _UNSAFE.intersection(parts)
        or "\0" in relative
        or os.path.commonpath([directory, inside]) != directory
    ):
        raise SourceError(
            f"{printable(uri)}: its name would be written outside of {directory}, so nothing was "
            "brought; rename the object, or leave it out by a pattern"
        )
    return path


def _check_distinct(jobs: Sequence[_Job]) -> None:
    """Check that no two files have one destination, where one would replace the other.

    Raises:
        SourceError: two files do; the text names both.
    """
    taken: dict[str, str] = {}
    for shard, path in jobs:
        other = taken.setdefault(path, shard.uri)
        if other != shard.uri:
            raise SourceError(
                f"{printable(other)} and {printable(shard.uri)} would both be written to "
                f"{printable(path)}, so nothing was "
                "brought; rename one of them, or leave it out by a pattern"
            )


def _pull_all(storage: Storage, jobs: Sequence[_Job], at_once: int | None) -> None:
    if not jobs:
        return
    threads = min(len(jobs), read_threads(at_once, remote=is_remote(jobs[0].shard.uri)))
    with ThreadPoolExecutor(threads, thread_name_prefix="pull") as pool:
        futures = [pool.submit(_pull_one, storage, job) for job in jobs]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _pull_one(storage: Storage, job: _Job) -> None:
    shard = job.shard
    reader = storage.open(shard)
    try:
        buffer = memoryview(bytearray(min(DEFAULT_BLOCK_BYTES, shard.size_bytes)))
        with PartialFile(job.path) as file:
            for start in range(0, shard.size_bytes, DEFAULT_BLOCK_BYTES):
                part = buffer[: shard.size_bytes - start]
                reader.readinto(part, start)
                file.write(part, start)
    except OSError as error:
        with as_os_error():
            raise source_error(job.path, error, "write it") from error
    finally:
        reader.close()


class PartialFile:
    """A file without a name, which gets the name `path` once its block is left without error.

    Readers of an earlier file at `path` keep what they have. A process that is killed leaves
    nothing if the file system has files without a name, or else a file named `.HEX.part`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = f".{secrets.token_hex(8)}.part"

    def __enter__(self) -> Self:
        directory, self._name = os.path.split(self._path)
        os.makedirs(directory, exist_ok=True)
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._open()
        except BaseException:
            os.close(self._directory_fd)
            raise
        return self

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self._fd = os.open(".", flags | os.O_TMPFILE, 0o666, dir_fd=self._directory_fd)
            self._is_named = False
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
            flags |= os.O_CREAT | os.O_EXCL
            self._fd = os.open(self._temporary, flags, 0o666, dir_fd=self._directory_fd)
            self._is_named = True

    def write(self, data: memoryview, start: int) -> None:
        """Write bytes at offset `start`."""
        while data:
            written = os.pwrite(self._fd, data, start)
            data, start = data[written:], start + written

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        folder = self._directory_fd
        try:
            if kind is None:
                self._take_name(folder)
        finally:
            os.close(self._fd)
            with contextlib.suppress(FileNotFoundError):  # it has its final name, or never had one
                os.unlink(self._temporary, dir_fd=folder)
            os.close(folder)

    def _take_name(self, folder: int) -> None:
        # A file without a name can only take a free name; only a rename replaces another file.
        if not self._is_named:
            opened = f"/proc/self/fd/{self._fd}"
            os.link(opened, self._temporary, dst_dir_fd=folder, follow_symlinks=True)
        os.replace(self._temporary, self._name, src_dir_fd=folder, dst_dir_fd=folder)
