"""The bytes of a file or a slab, read within a test's own loop."""

from __future__ import annotations

import os
from pathlib import Path

import posix_ipc


def bytes_of(path: str) -> bytes:
    return Path(path).read_bytes()


def content(slab: str, size_bytes: int) -> bytes:
    memory = posix_ipc.SharedMemory(slab, read_only=True)
    try:
        return os.pread(memory.fd, size_bytes, 0)
    finally:
        memory.close_fd()
