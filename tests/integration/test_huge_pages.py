"""Backing a slab with huge pages takes exactly the memory that was asked for, and loses no byte."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest

from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.huge_pages import EXTENT_BYTES, can_collapse
from streamerd.shm.slab_file import SlabFile
from streamerd.shm.slabs import allocated_bytes, create_slab, remove_slab, slab_name

SIZE = 3 * EXTENT_BYTES + 5000


@pytest.fixture
def slab(tmp_path: Path) -> Iterator[str]:
    name = slab_name(secrets.token_hex(4), "/m/a.safetensors", "1", 1)
    os.close(create_slab(name, SIZE))
    yield name
    remove_slab(name)


def opened(slab: str) -> int:
    return os.open(SHM_MOUNT + slab, os.O_RDWR | os.O_CLOEXEC)


@pytest.mark.skipif(not can_collapse(), reason="this kernel has no MADV_COLLAPSE (Linux 6.1)")
def test_whole_extents_are_huge_and_the_rest_is_exact(slab: str) -> None:
    mapped = SlabFile(opened(slab), mapped=True)
    content = os.urandom(SIZE)
    mapped.reserve(0, EXTENT_BYTES)
    assert allocated_bytes(slab) == EXTENT_BYTES
    mapped.reserve(EXTENT_BYTES, SIZE)
    assert allocated_bytes(slab) == 3 * EXTENT_BYTES + 8192
    view = mapped.view(0, SIZE)
    assert view is not None
    with view:
        view[:] = content
    memory = posix_ipc.SharedMemory(slab, read_only=True)
    try:
        assert os.pread(memory.fd, SIZE, 0) == content
        mapped.punch(EXTENT_BYTES, 2 * EXTENT_BYTES)
        assert allocated_bytes(slab) == 2 * EXTENT_BYTES + 8192
        left = content[:EXTENT_BYTES] + bytes(EXTENT_BYTES) + content[2 * EXTENT_BYTES :]
        assert os.pread(memory.fd, SIZE, 0) == left
    finally:
        memory.close_fd()
        mapped.close()


def test_ranges_within_an_extent_take_small_pages(slab: str) -> None:
    mapped = SlabFile(opened(slab), mapped=True)
    mapped.reserve(4096, 3 * 4096)
    assert allocated_bytes(slab) == 2 * 4096
    mapped.close()
