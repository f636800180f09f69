"""One slab is read by offset, mapped privately, and never smaller than its shard."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.delivery.slab import IOV_MAX, Slab

DATA = bytes(range(256)) * 100


@pytest.fixture
def memory() -> Iterator[int]:
    """The slab as a daemon has it, which may write to it."""
    fd = os.memfd_create("slab")
    os.ftruncate(fd, -(-len(DATA) // 4096) * 4096)
    os.pwrite(fd, DATA, 0)
    yield fd
    os.close(fd)


def handed_out(memory: int) -> int:
    return os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)


def test_buffers_are_filled_one_after_the_other(memory: int) -> None:
    slab = Slab(handed_out(memory), len(DATA))
    buffers = [bytearray(size) for size in (1, 0, 700, 3)]
    slab.read_into([memoryview(buffer) for buffer in buffers], 5)
    assert b"".join(buffers) == DATA[5:709]


def test_more_buffers_than_one_call_takes(memory: int) -> None:
    slab = Slab(handed_out(memory), len(DATA))
    buffers = [bytearray(2) for _ in range(2 * IOV_MAX + 1)]
    slab.read_into([memoryview(buffer) for buffer in buffers], 0)
    assert b"".join(buffers) == DATA[: 2 * len(buffers)]


def test_a_mapping_is_private(memory: int) -> None:
    slab = Slab(handed_out(memory), len(DATA))
    with slab.map() as mapping:
        mapping[:4] = b"mine"
        assert mapping[4:256] == DATA[4:256]
    assert os.pread(memory, 4, 0) == DATA[:4]


def test_one_object_is_the_same_by_whatever_descriptor(memory: int) -> None:
    slab = Slab(handed_out(memory), len(DATA))
    assert slab.is_same(Slab(handed_out(memory), len(DATA)))
    other = os.memfd_create("slab")
    os.ftruncate(other, len(DATA))
    assert not slab.is_same(Slab(other, len(DATA)))


def test_its_descriptor_closes_with_its_last_reference(memory: int) -> None:
    fd = handed_out(memory)
    slab = Slab(fd, len(DATA))
    assert os.fstat(fd)
    del slab
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_one_that_is_too_small_is_closed_at_once(memory: int) -> None:
    fd = handed_out(memory)
    with pytest.raises(DaemonUnavailable, match=r"slab of \d+ bytes for a shard of 1000000"):
        Slab(fd, 1_000_000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_is_no_file_is_no_slab() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    with pytest.raises(DaemonUnavailable, match="slab of 0 bytes"):
        Slab(read_end, 0)


def test_a_slab_that_shrinks_is_an_error(memory: int) -> None:
    slab = Slab(handed_out(memory), len(DATA))
    os.ftruncate(memory, 100)
    with pytest.raises(DaemonUnavailable, match="before its shard"):
        slab.read_into([memoryview(bytearray(200))], 0)
