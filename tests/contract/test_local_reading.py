"""The route by which the bytes of a local file come: page cache, device, or both."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path

import pytest
from tests.contract.storage_contract import KIB, content
from tests.support.cold_files import make_cold
from tests.support.local_sources import listed
from tests.support.unprivileged import as_nobody

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.local_reader import LocalReader
from streamer_client.storage.page_cache import PageCache

MIB = 1 << 20


def cache_is_countable(shard: StoredShard) -> bool:
    with open(shard.uri, "rb") as file:
        return PageCache(file.fileno(), shard.size_bytes)._cached_pages(0, 1) is not None


def device_bytes() -> int:
    """Bytes that the kernel fetched from devices for this process."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise AssertionError("no read_bytes in /proc/self/io")


BIG = 8 * MIB + 1234


@pytest.fixture
def big(storage: LocalStorage, open_dir: Path) -> StoredShard:
    path = open_dir / "big.safetensors"
    path.write_bytes(content(BIG))
    make_cold(path)
    return listed(storage, open_dir)


def read_all(storage: LocalStorage, shard: StoredShard, *, count: bool = True) -> int:
    """Read and compare the whole file; returns the reader's report."""
    reader = storage.open(shard)
    reader._cache._countable = count
    with mmap.mmap(-1, shard.size_bytes) as memory:
        with memoryview(memory) as target:
            told = reader.readinto(target, 0)
        assert memory[:] == content(shard.size_bytes)
    reader.close()
    return told


@pytest.mark.parametrize("count", [True, False], ids=["cachestat", "probe"])
def test_a_cold_file_is_read_from_the_device_once(
    storage: LocalStorage, big: StoredShard, count: bool
) -> None:
    before = device_bytes()
    assert read_all(storage, big, count=count) == BIG
    assert device_bytes() - before <= BIG + 8 * 4096, "read-ahead fetched bytes a second time"
    before = device_bytes()
    assert read_all(storage, big, count=True) > 7 * MIB, "reading filled the page cache"
    assert device_bytes() - before > 7 * MIB


@pytest.mark.parametrize("count", [True, False], ids=["cachestat", "probe"])
def test_a_cached_file_is_read_from_memory(
    storage: LocalStorage, big: StoredShard, count: bool
) -> None:
    Path(big.uri).read_bytes()
    before = device_bytes()
    assert read_all(storage, big, count=count) == 0
    assert device_bytes() == before


def test_of_a_partly_cached_block_only_the_rest_is_fetched(
    storage: LocalStorage, big: StoredShard
) -> None:
    fd = os.open(big.uri, os.O_RDONLY)
    # Without this advice, the kernel would read ahead, beyond the bytes that are asked for.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.preadv(fd, [bytearray(2 * MIB)], 3 * MIB)
    os.close(fd)
    told = read_all(storage, big)
    if not cache_is_countable(big):
        pytest.skip("this kernel has no cachestat(2), and one probe stands for a whole block")
    assert told == BIG - 2 * MIB


def test_a_stranger_to_the_file_reads_it_right_too(storage: LocalStorage, big: StoredShard) -> None:
    """On newer kernels, a user who may only read a file may not ask cachestat(2) about it."""
    assert as_nobody(lambda: read_all(storage, big)) == str(BIG)


class WithoutDirect(LocalReader):
    """A file system that refuses O_DIRECT."""

    refusals = 0

    def _direct(self) -> int:
        self.refusals += 1
        raise OSError(errno.EINVAL, "refused")


def test_refused_direct_reads_are_remembered(big: StoredShard) -> None:
    reader = WithoutDirect(os.open(big.uri, os.O_RDONLY), big)
    with mmap.mmap(-1, MIB) as memory:
        for start in (0, 4 * MIB):
            with memoryview(memory) as target:
                reader.readinto(target, start)
            assert memory[:] == content(BIG)[start : start + MIB]
    reader.close()
    assert reader.refusals == 1


def test_tmpfs_is_told_as_memory_or_not_at_all() -> None:
    with tempfile.TemporaryDirectory(prefix="storage-test-", dir="/dev/shm") as directory:
        storage = LocalStorage()
        (Path(directory) / "m.safetensors").write_bytes(content(200 * KIB))
        assert read_all(storage, listed(storage, Path(directory))) in (0, -1)
