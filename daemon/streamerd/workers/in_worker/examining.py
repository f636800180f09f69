"""Examines files through the descriptors that clients passed, and compares slabs with files.

A descriptor is accepted if it was opened for reading, means a regular file, and a byte can be read
through it. The type of the file system tells whether reads may hang, and whether a user's own
server chooses the file's content. Runs in a fetch worker's threads. Any of these calls may hang if
the file's server hangs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Final

from streamer_client.contract.errors import SourceChanged, SourceError, SourceForbidden
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local_reader import identity_of
from streamer_client.storage.os_errors import descriptor_error
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
"""Bytes that are compared at each place: one page."""

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def examine(job: Examine, fds: tuple[int, ...]) -> Examined:
    """Identity and size of each file, or the reason why it is refused.

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
    # /sys is asked once for each disk: that takes as long as everything else about one file.
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
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "not a file with content")
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
    """The flags that the descriptor was opened with; an error if it cannot be read from."""
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
    """Compare slabs with files; returns where they differ.

    Raises:
        SourceError: a file did not come with two descriptors.
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
    """Read up to a page from `start`. If the file ends in it, it is shorter than the slab's."""
    wanted, got = min(COMPARED_BYTES, size_bytes - start), b""
    while len(got) < wanted and (more := os.pread(fd, wanted - len(got), start + len(got))):
        got += more
    return got


# --- the file system behind a file ----------------------------------------------------------------

_STEADY: Final = frozenset(
    {
        0xEF53,  # ext2, ext3, ext4
        0x58465342,  # xfs
        0x9123683E,  # btrfs
        0xF2F52010,  # f2fs
        0x2FC12FC1,  # zfs
        0x01021994,  # tmpfs
    }
)
"""Types of file systems on devices and in memory, where each read ends with bytes or an error. The
numbers are those of <linux/magic.h>."""

_SERVED: Final = frozenset(
    {
        0x65735546,  # FUSE, virtiofs among them
        0x01021997,  # 9p
        0x794C7630,  # overlayfs: in a namespace, any user may mount one over a FUSE
    }
)
"""Types of file systems that any user may serve, or mount in a namespace. The identity of such a
file counts only for the user who passed it."""


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


_libc: Final = ctypes.CDLL(None, use_errno=True)
_fstatfs: Final = _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.POINTER(_Statfs))


def is_steady(fd: int) -> bool:
    """Whether each read of the file ends by itself, and never waits for a server that is gone.

    Raises:
        OSError: the file system cannot be asked.
    """
    return _type_of(fd) in _STEADY


def is_served(fd: int) -> bool:
    """Whether a process of some user decides what the file is and holds.

    Raises:
        OSError: the file system cannot be asked.
    """
    return _type_of(fd) in _SERVED


def disk_of(device: int) -> str:
    """The `diskseq` of a block device, which is unique since boot; empty if it has none.

    The result is not cached across batches, since another disk may get the same device number.

    Args:
        device: the device number, as in `st_dev`.
    """
    place = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for name in ("diskseq", "../diskseq"):  # a partition has the number of its disk
        with contextlib.suppress(OSError), open(f"{place}/{name}", encoding="ascii") as file:
            return file.read().strip()
    return ""


def _type_of(fd: int) -> int:
    found = _Statfs()
    if _fstatfs(fd, ctypes.byref(found)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found.f_type) & 0xFFFFFFFF
