"""Reads one local file, from the page cache where that holds it, else past it.

Owns the descriptors and the choice of the way for each run of bytes: cached runs with RWF_NOWAIT,
at memory speed; others with O_DIRECT on a second descriptor, which costs a tenth of the CPU time of
a buffered read and leaves the page cache to others; what O_DIRECT may not do (unaligned, the file's
tail, a file system that refuses) plainly. Any number of threads of a fetch worker, or of a client
without a daemon, read through one reader at once.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
from typing import Final

from streamer_client.contract.errors import SourceChanged
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.os_errors import source_error
from streamer_client.storage.page_cache import PageCache

logger = logging.getLogger(__name__)

DIRECT_ALIGNMENT_BYTES: Final = 4096
"""Enough for every logical block size in use, for the address, the offset and the length."""

PIECE_BYTES: Final = 1 << 20
"""Fits a processor's own cache, so that checksum and copy find it there; devices want no more."""

_UNKNOWN: Final = -1


def identity_of(status: os.stat_result) -> str:
    """What proves a local file's content: device, inode, size and time of the last change."""
    return f"file:{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


class LocalReader:
    """One open file of a known identity. Takes over `fd`."""

    piece_bytes = PIECE_BYTES
    retries = 0

    def __init__(self, fd: int, shard: StoredShard) -> None:
        self._shard = shard
        self._fd = fd
        self._direct_fd: int | None = None
        self._direct_refused = False
        self._opening = threading.Lock()
        self._cache = PageCache(fd, shard.size_bytes)
        self.check()

    def readinto(self, buffer: memoryview, start: int) -> int:
        """Fill the whole of `buffer` from byte `start` on.

        Returns:
            Bytes that were not in the page cache; -1 when the file system does not tell.

        Raises:
            SourceChanged: the file is not what it was, or ended early.
            SourceError: the device or mount failed.
        """
        target = buffer.cast("B")
        stop = start + len(target)
        if stop > self._shard.size_bytes:
            raise ValueError(f"bytes {start} to {stop} of {self._shard} are past its end")
        told = True
        from_device = 0
        try:
            for run in self._cache.runs(start, stop) if len(target) else ():
                part = target[run.start - start : run.stop - start]
                missed = self._read_cached(part, run.start) if run.cached else len(part)
                known = run.cached is not None
                self._read_device(part[len(part) - missed :], run.stop - missed, known=known)
                from_device += missed
                told = told and known
        except OSError as error:
            doing = f"read bytes {start} to {stop}"
            raise source_error(self._shard.uri, error, doing) from error
        self.check()
        return from_device if told else _UNKNOWN

    def check(self) -> None:
        """Raise SourceChanged unless descriptor and path still lead to the known content.

        A file that was only unlinked stays readable through its descriptor, and so is no failure.
        """
        found = identity_of(os.fstat(self._fd))
        if found == self._shard.identity:
            try:
                found = identity_of(os.stat(self._shard.uri))
            except OSError:
                return
        if found != self._shard.identity:
            raise changed(self._shard, found)

    def close(self) -> None:
        """Close the descriptors. Idempotent; no thread may be reading."""
        for fd in (self._fd, self._direct_fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._fd, self._direct_fd = -1, None

    def _read_cached(self, part: memoryview, start: int) -> int:
        """Fill `part` from the cache; returns how many bytes at its end were not there."""
        if not self._cache.nowait:
            self._read_device(part, start, known=False)
            return 0
        done = 0
        while done < len(part):
            try:
                done += self._some(self._fd, part[done:], start + done, os.RWF_NOWAIT)
            except BlockingIOError:
                break
        return len(part) - done

    def _read_device(self, part: memoryview, start: int, *, known: bool) -> None:
        """Fill `part`, past the cache only if it is `known` not to hold these bytes."""
        done = 0
        while done < len(part):
            rest = part[done:]
            aligned = self._direct_bytes(rest, start + done) if known else 0
            if aligned:
                done += self._some_direct(rest[:aligned], start + done)
            else:
                done += self._some(self._fd, rest, start + done, 0)

    def _direct_bytes(self, rest: memoryview, start: int) -> int:
        """How many bytes O_DIRECT may read next; 0 where it may not be used."""
        if self._direct_refused or len(rest) < DIRECT_ALIGNMENT_BYTES:
            return 0
        address = ctypes.addressof(ctypes.c_char.from_buffer(rest))
        if (address | start) % DIRECT_ALIGNMENT_BYTES:
            return 0
        return len(rest) - len(rest) % DIRECT_ALIGNMENT_BYTES

    def _some_direct(self, part: memoryview, start: int) -> int:
        """Bytes read past the cache; 0 when the file system refuses, which is remembered."""
        try:
            return self._some(self._direct(), part, start, 0)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.ENOENT):
                raise
            logger.debug("direct_refused uri=%s error=%s", self._shard.uri, error)
            self._direct_refused = True
            return 0

    def _direct(self) -> int:
        """The second descriptor, of the same inode even if the path leads elsewhere by now."""
        with self._opening:
            if self._direct_fd is None:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT
                self._direct_fd = os.open(f"/proc/self/fd/{self._fd}", flags)
            return self._direct_fd

    def _some(self, fd: int, part: memoryview, start: int, flags: int) -> int:
        count = os.preadv(fd, [part], start, flags)
        if count == 0:
            self.check()
            raise SourceChanged(
                f"{self._shard.uri}: ended at byte {start} of {self._shard.size_bytes}; "
                "open the checkpoint again when nothing writes to it"
            )
        return count


def changed(shard: StoredShard, found: str) -> SourceChanged:
    """The error for a file that is not what it was when it was listed."""
    return SourceChanged(
        f"{shard.uri}: changed since the load began (expected {shard.identity}, found {found}); "
        "open the checkpoint again when nothing writes to it"
    )
