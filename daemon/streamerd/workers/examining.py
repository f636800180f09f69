"""Looks at files through the descriptors that a client passed, and compares slabs with files.

Owns what makes a descriptor worth reading through: that it was opened for reading, of a regular
file, whose bytes can be had. Runs in a fetch worker's threads; any of these calls may hang where
the file's server does.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Final

from streamer_client.contract.errors import SourceChanged, SourceError, SourceForbidden
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local_reader import identity_of
from streamer_client.storage.os_errors import descriptor_error
from streamerd.workers.file_systems import disk_of, is_served
from streamerd.workers.jobs import (
    Compare,
    Compared,
    CompareFailure,
    CompareFile,
    Examine,
    Examined,
    ExaminedFile,
    ExamineFile,
    Refusal,
)

COMPARED_BYTES: Final = 4096
"""Of each place that is compared: a page."""

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def examine(job: Examine, fds: tuple[int, ...]) -> Examined:
    """What each file is, or why it is refused.

    Raises:
        SourceError: there are not as many descriptors as the job's files say.
    """
    wanted = sum(1 + file.direct for file in job.files)
    if wanted != len(fds):
        raise SourceError(
            f"{len(job.files)} files came with {len(fds)} descriptors and not {wanted}; pass each "
            "file's own"
        )
    left = iter(fds)
    # Asked once for all files of a batch: /sys takes as long as all else that is asked of one.
    disks: dict[int, str] = {}
    return Examined(job.job, tuple(_look(file, left, disks) for file in job.files))


def _look(file: ExamineFile, fds: Iterator[int], disks: dict[int, str]) -> ExaminedFile | Refusal:
    plain, direct = next(fds), next(fds) if file.direct else None
    try:
        return _examined(file, plain, direct, disks)
    except SourceError as error:
        return Refusal(error.code, str(error))
    except OSError as error:
        refused = descriptor_error(file.uri, error, "look at it")
        return Refusal(refused.code, str(refused))


def _examined(
    file: ExamineFile, plain: int, direct: int | None, disks: dict[int, str]
) -> ExaminedFile:
    flags = _readable_flags(file.uri, plain)
    status = os.fstat(plain)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file with content")
        raise SourceError(f"{file.uri}: is {kind}, and a regular file is needed")
    if flags & os.O_DIRECT:
        raise SourceError(
            f"{file.uri}: its first descriptor was opened with O_DIRECT, and one that reads the "
            "page cache is needed; open the file twice"
        )
    if status.st_size:
        _read_one_byte(file.uri, plain)
    disk = disks.get(status.st_dev)
    if disk is None:
        disk = disks[status.st_dev] = disk_of(status.st_dev)
    identity = identity_of(status, disk, str(file.uid) if is_served(plain) else "")
    return ExaminedFile(
        StoredShard(file.uri, status.st_size, identity),
        status.st_ctime_ns,
        direct is not None and _reads_directly(direct, status),
    )


def _readable_flags(uri: str, fd: int) -> int:
    """Flags of what the descriptor's opening made."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if not _reads(flags):
        how = "with O_PATH" if flags & os.O_PATH else "for writing only"
        raise SourceForbidden(
            f"{uri}: its descriptor was opened {how}, which takes no right to the file's bytes; "
            "open the file for reading"
        )
    return flags


def _reads(flags: int) -> bool:
    return not flags & os.O_PATH and flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)


def _read_one_byte(uri: str, fd: int) -> None:
    try:
        got = os.pread(fd, 1, 0)
    except OSError as error:
        raise descriptor_error(uri, error, "read it") from error
    if not got:
        raise SourceChanged(
            f"{uri}: has no bytes where it had some just now; open the checkpoint again when "
            "nothing writes to it"
        )


def _reads_directly(fd: int, plain: os.stat_result) -> bool:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    directly = _reads(flags) and bool(flags & os.O_DIRECT)
    return directly and os.path.samestat(os.fstat(fd), plain)


def compare(job: Compare, fds: tuple[int, ...]) -> Compared:
    """Where slabs and files differ.

    Raises:
        SourceError: there are not two descriptors of each file.
    """
    if len(fds) != 2 * len(job.files):
        raise SourceError(
            f"{len(job.files)} files are to be compared and {len(fds)} descriptors came; a slab's "
            "and a file's of each are needed"
        )
    differing: list[tuple[int, int]] = []
    failed: list[CompareFailure] = []
    for place, file in enumerate(job.files):
        try:
            starts = _differing(file, slab=fds[2 * place], source=fds[2 * place + 1])
            differing += ((place, start) for start in starts)
        except OSError as error:
            refused = descriptor_error(f"file {place}", error, "compare it with what was read")
            failed.append(CompareFailure(place, refused.code, str(refused)))
    return Compared(job.job, tuple(differing), tuple(failed))


def _differing(file: CompareFile, slab: int, source: int) -> list[int]:
    return [
        start
        for start in file.starts
        if _piece(slab, start, file.size_bytes) != _piece(source, start, file.size_bytes)
    ]


def _piece(fd: int, start: int, size_bytes: int) -> bytes:
    """Up to a page; what a file that ends earlier does not have makes it differ."""
    wanted, got = min(COMPARED_BYTES, size_bytes - start), b""
    while len(got) < wanted and (more := os.pread(fd, wanted - len(got), start + len(got))):
        got += more
    return got
