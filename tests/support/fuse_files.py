"""A FUSE file system of one file, whose server answers, stops answering and goes on when told.

Speaks the kernel's protocol (<linux/fuse.h>, 7.31) itself, so it needs neither library nor package.
It does need root and /dev/fuse. Runs in a thread of the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import stat
import struct
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final

import pytest


class _Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    FLUSH = 25
    INIT = 26
    INTERRUPT = 36
    BATCH_FORGET = 42


_HEAD: Final = struct.Struct("<IIQQIIII")
_ROOT, _FILE = 1, 2
_DETACH: Final = 2
HANGS_AT_MOST_S: Final = 60.0
"""A time limit, since a test that waits in the kernel for ever cannot even be killed."""
NAME: Final = "model.safetensors"

_libc = ctypes.CDLL(None, use_errno=True)


class FuseFile:
    """One file at `path`, served until its mount ends.

    Attributes:
        answering: while it is not set, reads and flushes wait.
        reads: number of reads so far.
        flushes: number of closes that the server was told of.
    """

    def __init__(self, folder: Path, data: bytes) -> None:
        self.path = str(folder / NAME)
        self.answering = threading.Event()
        self.answering.set()
        self.reads = 0
        self._hangs_until_s = 0.0
        self.flushes = 0
        self._folder = str(folder)
        self._data = data
        self._held: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40755,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"test", self._folder.encode(), b"fuse", 0, options.encode()):
            number = ctypes.get_errno()
            os.close(self._fd)
            raise OSError(number, os.strerror(number))
        self._told, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Answer no read and no close within the block; at its end, all that wait are answered."""
        self.answering.clear()
        self._hangs_until_s = time.monotonic() + HANGS_AT_MOST_S
        try:
            yield
        finally:
            self.go_on()

    def go_on(self) -> None:
        """Answer the requests that waited, and all later ones."""
        with self._lock:
            self.answering.set()
            held, self._held = self._held, []
        for unique, body in held:
            self._reply(unique, body)

    def unmount(self) -> None:
        """Unmount the file; requests that still wait fail."""
        self.go_on()
        _libc.umount2(self._folder.encode(), _DETACH)
        os.write(self._end, b"end")
        self._thread.join()
        os.close(self._fd)  # later requests then fail at once
        for end in (self._end, self._told):
            os.close(end)

    def _serve(self) -> None:
        while self._told not in (ready := select.select([self._fd, self._told], [], [], 1.0)[0]):
            if not self.answering.is_set() and time.monotonic() > self._hangs_until_s:
                self.go_on()
            if not ready:
                continue
            try:
                request = os.read(self._fd, 1 << 20)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue  # the request was withdrawn
                return  # the file is neither mounted nor open any more
            _, opcode, unique, node, *_ = _HEAD.unpack_from(request)
            self._answer(opcode, unique, node, request[_HEAD.size :])

    def _answer(self, opcode: int, unique: int, node: int, body: bytes) -> None:
        match opcode:
            case _Op.INIT:
                # version, read-ahead, flags, requests in the background, size of a write, ...
                told = (7, 31, 1 << 17, 0, 8, 8, 1 << 17, 1, 0, 0, 0)
                self._reply(unique, struct.pack("<IIIIHHIIHHI28x", *told))
            case _Op.LOOKUP if body.rstrip(b"\0") == NAME.encode():
                entry = struct.pack("<QQQQII", _FILE, 0, 3600, 3600, 0, 0)
                self._reply(unique, entry + self._attributes(_FILE))
            case _Op.GETATTR:
                self._reply(unique, struct.pack("<QII", 3600, 0, 0) + self._attributes(node))
            case _Op.OPEN:
                # These numbers are a handle, the flag FOPEN_DIRECT_IO, and padding.
                self._reply(unique, struct.pack("<QII", 1, 1, 0))
            case _Op.READ:
                _, offset, size = struct.unpack_from("<QQI", body)
                self.reads += 1
                self._later(unique, self._data[offset : offset + size])
            case _Op.FLUSH:
                self.flushes += 1
                self._later(unique, b"")
            case _Op.STATFS:
                self._reply(unique, struct.pack("<QQQQQIIII24x", *(0,) * 5, 4096, 255, 4096, 0))
            case _Op.RELEASE:
                self._reply(unique, b"")
            case _Op.FORGET | _Op.BATCH_FORGET | _Op.INTERRUPT:
                return  # these requests have no answer
            case _Op.LOOKUP:
                self._reply(unique, b"", -errno.ENOENT)
            case _:
                self._reply(unique, b"", -errno.ENOSYS)

    def _later(self, unique: int, body: bytes) -> None:
        with self._lock:
            if not self.answering.is_set():
                self._held.append((unique, body))
                return
        self._reply(unique, body)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o644
        size = 0 if node == _ROOT else len(self._data)
        # ino, size, blocks, times, their nanoseconds, mode, links, uid, gid, rdev, blksize, flags
        told = (node, size, 0, 1, 1, 1, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        return struct.pack("<QQQQQQIIIIIIIIII", *told)

    def _reply(self, unique: int, body: bytes, error: int = 0) -> None:
        with contextlib.suppress(OSError):  # raised if the process that asked is gone
            os.write(self._fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


@contextlib.contextmanager
def fuse_file(folder: Path, data: bytes) -> Iterator[FuseFile]:
    """Mount the file on `folder`, or skip the test if that cannot be done."""
    folder.mkdir()
    try:
        mounted = FuseFile(folder, data)
    except OSError as error:
        pytest.skip(f"no FUSE can be mounted here: {error}")
    try:
        yield mounted
    finally:
        mounted.unmount()
