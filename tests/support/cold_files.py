"""Removes files from the page cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def make_cold(path: Path) -> None:
    """Drop the file from the page cache, or skip the test if that cannot be done."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(fd, [bytearray(1)], path.stat().st_size, os.RWF_NOWAIT)
        except OSError as error:
            pytest.skip(f"the file system of {path} does not tell what is cached: {error}")
    finally:
        os.close(fd)
