"""One slab in the client: a read-only descriptor, read by offset or mapped.

Owns the descriptor and the private mapping. The load decides which bytes may be read.
"""

from __future__ import annotations

import mmap
import os
import stat
import weakref
from collections.abc import Sequence
from typing import Final

from streamer_client.contract.errors import DaemonUnavailable, StreamerError
from streamer_client.contract.layout import slab_bytes

IOV_MAX: Final = 1024
"""How many buffers one preadv(2) takes (UIO_MAXIOV)."""

# The mmap module has this name only from Python 3.14 on. The value is the kernel's on every
# platform that has Python wheels of torch (x86-64, aarch64: asm-generic/mman.h).
MAP_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)


class Slab:
    """An opened slab; its descriptor closes with the last reference, so no reader loses it.

    Args:
        fd: descriptor from the daemon; this object closes it.
        size_bytes: size of the shard.

    Raises:
        DaemonUnavailable: the slab is smaller than the shard, so the daemon cannot be believed.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size < size_bytes:
            os.close(fd)  # now, as the error's traceback keeps this object alive
            raise DaemonUnavailable(
                f"the daemon gave a slab of {found.st_size} bytes for a shard of {size_bytes}"
            )
        self.fd = fd
        self.size_bytes = size_bytes
        weakref.finalize(self, os.close, fd).atexit = False

    @property
    def stays(self) -> bool:
        """True: slabs never shrink."""
        return True

    def ended(self, told: str) -> StreamerError:
        """The error for the tensor `told`, which the slab should hold."""
        return DaemonUnavailable(
            f"a slab of the daemon ends before {told}; was it removed from /dev/shm?"
        )

    def read_into(self, buffers: Sequence[memoryview], start: int) -> None:
        """Fill the buffers, one after the other, with the bytes from `start` on."""
        for first in range(0, len(buffers), IOV_MAX):
            group = list(buffers[first : first + IOV_MAX])
            start += self._fill(group, start)

    def _fill(self, buffers: list[memoryview], start: int) -> int:
        """Fill some buffers by one preadv(2), which may stop early; return the bytes read."""
        total = 0
        while buffers:
            count = os.preadv(self.fd, buffers, start + total)
            if count == 0 and any(len(buffer) for buffer in buffers):
                raise DaemonUnavailable(
                    f"a slab of the daemon ends at byte {start + total}, before its shard"
                )
            total += count
            while buffers and count >= len(buffers[0]):
                count -= len(buffers.pop(0))
            if count:
                buffers[0] = buffers[0][count:]
        return total

    def is_same(self, other: Slab) -> bool:
        """Whether both are the same shared-memory object, whatever its names."""
        ours, theirs = os.fstat(self.fd), os.fstat(other.fd)
        return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)

    def map(self) -> mmap.mmap:
        """A private writable mapping: writes stay in this process and change no shared byte.

        MAP_NORESERVE is needed because otherwise the kernel accounts for memory as if every page
        would be written.
        """
        return mmap.mmap(
            self.fd,
            slab_bytes(self.size_bytes),
            flags=mmap.MAP_PRIVATE | MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
