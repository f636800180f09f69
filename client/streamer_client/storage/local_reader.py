"""Reads one local file, from the page cache if it has the bytes, or else past it.

Owns the descriptors, and chooses how each run of bytes is read. A cached run is read with
RWF_NOWAIT, at memory speed. Another run is read with O_DIRECT on a second descriptor, which costs a
tenth of the CPU time of a buffered read and leaves the page cache to others. Bytes that O_DIRECT
cannot read (unaligned, the file's tail, a file system that refuses) are read plainly. Any number of
threads of a worker, or of a client without a daemon, read through one reader at once.

A file is known by its descriptor alone, never by its path. The path may mean one file to the
process that opened it and another to the process that reads. A descriptor stays with its file when
the name is moved, removed or given to another file.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from streamer_client.contract.errors import SourceChanged
from streamer_client.storage.contract import Arrived, StoredShard
from streamer_client.storage.os_errors import descriptor_error
from streamer_client.storage.page_cache import PageCache

logger = logging.getLogger(__name__)

DIRECT_ALIGNMENT_BYTES: Final = 4096
"""The alignment of address, offset and length; it suits every logical block size in use."""

DIRECT_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT

PIECE_BYTES: Final = 1 << 20
"""How many bytes one read takes; they fit a processor's own cache, for the checksum."""

SETTLING_READS: Final = 3
"""How often bytes are read at most while the file's ctime changes during each read. One chmod or
link costs one more read. A file whose ctime changes during all of them is being written to."""

_UNKNOWN: Final = -1

T = TypeVar("T")


def identity_of(status: os.stat_result, disk: str = "", owner: str = "") -> str:
    """The text that proves a local file's content.

    It has device, inode, size and the time of the last change of content (mtime). It has no ctime,
    because chmod, link and rename change that, too.

    Args:
        status: status of the open file.
        disk: the block device's `diskseq`, if it has one. An image that is mounted later at the
            same device number may repeat everything else.
        owner: the id of the user who passed the file, if its file system is served by a process
            (FUSE), which may claim anything.
    """
    base = f"file:{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    return base + (f":disk{disk}" if disk else "") + (f":uid{owner}" if owner else "")


class LocalReader:
    """Reads one open file of a known identity.

    `close` closes `fd` and `direct_fd`; if the constructor raises, they stay open.

    Args:
        fd: descriptor for reading, without O_DIRECT.
        shard: the expected shard. Disk and owner at the end of its identity are not compared, since
            the descriptor does not tell them.
        direct_fd: descriptor of the same file, opened once more with O_DIRECT. If None, the reader
            tries to open it with its own process's rights, and does without if that is refused.

    Raises:
        SourceChanged: the file is not the expected shard.
        SourceError: the status of the file cannot be read.
    """

    piece_bytes = PIECE_BYTES
    retries = 0

    def __init__(self, fd: int, shard: StoredShard, direct_fd: int | None = None) -> None:
        self._shard = shard
        self._fd = fd
        self._direct_fd = direct_fd
        self._direct_refused = False
        self._opening = threading.Lock()
        try:
            self._cache = PageCache(fd, shard.size_bytes)
        except OSError as error:
            raise descriptor_error(shard.uri, error, "read it") from error
        self.check()

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        """Fill the whole of `buffer` from byte `start` on.

        Args:
            buffer: the memory to fill, in order.
            start: offset in the file of the buffer's first byte.
            arrived: called with the whole buffer; callers ask for pieces that fit a cache.

        Returns:
            Bytes that were not in the page cache; -1 when the file system does not tell.

        Raises:
            SourceChanged: the file has changed, or ended early.
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
            raise descriptor_error(self._shard.uri, error, doing) from error
        self.check()
        if arrived:
            arrived(target)
        return from_device if told else _UNKNOWN

    def check(self) -> None:
        """Raise SourceChanged unless the open file still has the known content."""
        found, known = identity_of(self._status()), self._shard.identity
        if known != found and not known.startswith(found + ":"):
            raise changed(self._shard, found)

    def ctime_ns(self) -> int:
        """The file's ctime, as its file system tells it now.

        Raises:
            SourceError: the status of the file cannot be read any more.
        """
        return self._status().st_ctime_ns

    def settled(self, read: Callable[[], T]) -> tuple[T, int]:
        """Call `read`, and repeat the call if the file's ctime changed during it.

        Args:
            read: reads bytes through this reader; only the result of the last call counts.

        Returns:
            The result of the last call, and the ctime that held while all its bytes were read.

        Raises:
            SourceChanged: the ctime changed during every call.
            SourceError: the file could not be read.
        """
        before_ns = self.ctime_ns()
        for _ in range(SETTLING_READS):
            got = read()
            after_ns = self.ctime_ns()
            if after_ns == before_ns:
                return got, after_ns
            before_ns = after_ns
        raise SourceChanged(
            f"{self._shard.uri}: is being changed while it is read, {SETTLING_READS} times in a "
            "row; open the checkpoint again when nothing writes to it"
        )

    def _status(self) -> os.stat_result:
        try:
            return os.fstat(self._fd)
        except OSError as error:
            raise descriptor_error(self._shard.uri, error, "look at it") from error

    def close(self) -> None:
        """Close the descriptors. Idempotent; no thread may be reading."""
        for fd in (self._fd, self._direct_fd):
            if fd is not None and fd >= 0:
                os.close(fd)
        self._fd, self._direct_fd = -1, None

    def _read_cached(self, part: memoryview, start: int) -> int:
        """Fill `part` from the cache; return how many bytes at its end the cache did not hold."""
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
        """Fill `part`; read past the cache only if it is `known` not to hold these bytes."""
        done = 0
        while done < len(part):
            rest = part[done:]
            aligned = self._direct_bytes(rest, start + done) if known else 0
            if aligned:
                done += self._some_direct(rest[:aligned], start + done)
            else:
                done += self._some(self._fd, rest, start + done, 0)

    def _direct_bytes(self, rest: memoryview, start: int) -> int:
        """How many bytes O_DIRECT may read next; 0 if it may not be used."""
        if self._direct_refused or len(rest) < DIRECT_ALIGNMENT_BYTES:
            return 0
        address = ctypes.addressof(ctypes.c_char.from_buffer(rest))
        if (address | start) % DIRECT_ALIGNMENT_BYTES:
            return 0
        return len(rest) - len(rest) % DIRECT_ALIGNMENT_BYTES

    def _some_direct(self, part: memoryview, start: int) -> int:
        """Read past the cache; return the bytes read, or 0 once the file system refuses."""
        try:
            fd = self._direct()
        except OSError as error:
            return self._do_without_direct(error)
        try:
            return self._some(fd, part, start, 0)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return self._do_without_direct(error)

    def _do_without_direct(self, error: OSError) -> int:
        logger.debug("event=direct_refused uri=%r error=%s", self._shard.uri, error)
        self._direct_refused = True
        return 0

    def _direct(self) -> int:
        """The descriptor for O_DIRECT; it is opened from the open file, not by a path."""
        with self._opening:
            if self._direct_fd is None:
                self._direct_fd = os.open(f"/proc/self/fd/{self._fd}", DIRECT_FLAGS)
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
    """The error for a file that has changed since it was listed."""
    return SourceChanged(
        f"{shard.uri}: changed since the load began (expected {shard.identity}, found {found}); "
        "open the checkpoint again when nothing writes to it"
    )
