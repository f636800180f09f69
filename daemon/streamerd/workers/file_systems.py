"""What is known of the file system behind an open file: whether it may hang, whose word it is.

Asked in a fetch worker's threads, of descriptors alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

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
"""On devices and in memory: a read ends, be it with an error. Magic numbers of <linux/magic.h>."""

_SERVED: Final = frozenset(
    {
        0x65735546,  # FUSE, virtiofs among them
        0x01021997,  # 9p
        0x794C7630,  # overlayfs: any user mounts one in a namespace of his own, over a FUSE
    }
)
"""Answered, or arranged, by a process that any user may run: two users are told of two files."""


class _Statfs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_byte * 248))


_libc: Final = ctypes.CDLL(None, use_errno=True)
_fstatfs: Final = _libc.fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.POINTER(_Statfs))


def is_steady(fd: int) -> bool:
    """Whether reads of it end by themselves; others may wait for a server that is gone.

    Raises:
        OSError: it cannot be asked.
    """
    return _type_of(fd) in _STEADY


def is_served(fd: int) -> bool:
    """Whether a process of some user says what the file is and holds.

    Raises:
        OSError: it cannot be asked.
    """
    return _type_of(fd) in _SERVED


def disk_of(device: int) -> str:
    """The `diskseq` of a block device, which no other disk has had since the start; empty: none.

    Read each time: the number of a device comes back with another disk behind it.

    Args:
        device: as `st_dev` has it.
    """
    place = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    for name in ("diskseq", "../diskseq"):  # of a partition: of the disk that it is part of
        with contextlib.suppress(OSError), open(f"{place}/{name}", encoding="ascii") as file:
            return file.read().strip()
    return ""


def _type_of(fd: int) -> int:
    found = _Statfs()
    if _fstatfs(fd, ctypes.byref(found)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found.f_type) & 0xFFFFFFFF
