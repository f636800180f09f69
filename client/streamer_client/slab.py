"""One slab as the client sees it: opened read-only, read by offset, or mapped privately.

Owns the descriptor and the private mapping. Which bytes may be read is the load's business.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence
from typing import Final

import posix_ipc

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.layout import slab_bytes

IOV_MAX: Final = 1024
"""Buffers that one preadv(2) takes (UIO_MAXIOV)."""

# The mmap module names it from Python 3.14 on only; the value is the kernel's, on every platform
# that Python wheels of torch exist for (x86-64, aarch64: asm-generic/mman.h).
MAP_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)


class Slab:
    """An opened slab; its descriptor closes with the last reference, so no reader loses it."""

    def __init__(self, name: str, size_bytes: int) -> None:
        """Open the slab.

        Raises:
            DaemonUnavailable: it is not there, or may not be opened: the daemon's word is void.
        """
        self.name = name
        self.size_bytes = size_bytes
        try:
            self.fd = posix_ipc.SharedMemory(name, read_only=True).fd
        except (posix_ipc.Error, OSError) as error:
            raise DaemonUnavailable(
                f"the slab /dev/shm{name} cannot be opened by user {os.getuid()} ({error}); "
                "is the daemon in another container or of another group?"
            ) from error
        weakref.finalize(self, os.close, self.fd).atexit = False

    def read_into(self, buffers: Sequence[memoryview], start: int) -> None:
        """Fill the buffers, one after the other, with the bytes from `start` on."""
        for first in range(0, len(buffers), IOV_MAX):
            group = list(buffers[first : first + IOV_MAX])
            start += self._fill(group, start)

    def _fill(self, buffers: list[memoryview], start: int) -> int:
        """One group of buffers; returns the bytes read. preadv(2) may stop short at a signal."""
        total = 0
        while buffers:
            count = os.preadv(self.fd, buffers, start + total)
            if count == 0 and any(len(buffer) for buffer in buffers):
                raise DaemonUnavailable(
                    f"the slab /dev/shm{self.name} ends at byte {start + total}, before the shard"
                )
            total += count
            while buffers and count >= len(buffers[0]):
                count -= len(buffers.pop(0))
            if count:
                buffers[0] = buffers[0][count:]
        return total

    def is_same(self, other: Slab) -> bool:
        """Whether both are one object, whatever its names."""
        ours, theirs = os.fstat(self.fd), os.fstat(other.fd)
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def map(self) -> mmap.mmap:
        """A private writable mapping: writes stay in this process, the shared bytes do not change.

        MAP_NORESERVE, because else the kernel charges it all as if it would be written.
        """
        return mmap.mmap(
            self.fd,
            slab_bytes(self.size_bytes),
            flags=mmap.MAP_PRIVATE | MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
