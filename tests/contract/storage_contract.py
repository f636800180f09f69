"""The contract that every storage must fulfil.

A backend's test class inherits it and gives a fixture.
"""

from __future__ import annotations

import mmap
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import pytest

from streamer_client.contract.errors import SourceChanged, SourceError, SourceNotFound
from streamer_client.storage.contract import Storage, StoredShard

KIB: Final = 1 << 10
SIZE: Final = 3 * 1024 * KIB + 1234
"""A size of more than two segments that is no whole number of pages."""


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Backend(Protocol):
    """A source under a test's control."""

    storage: Storage
    source: str
    """The directory, prefix or other place that holds the shards."""

    def put(self, name: str, data: bytes) -> None:
        """Create a shard, or change its content in place."""
        ...

    def remove(self, name: str) -> None: ...

    def uri(self, name: str) -> str:
        """The name by which `list_shards` calls the shard."""
        ...


class ReadingContract:
    """The part of the contract that storages which cannot list fulfil too.

    Inherit it, and define the fixture `backend`.
    """

    def one(self, backend: Backend, data: bytes, name: str = "a.safetensors") -> StoredShard:
        backend.put(name, data)
        (shard,) = backend.storage.list_shards(backend.source, name, None)
        return shard

    # --- finding

    def test_files_win_over_the_pattern_and_keep_their_order(self, backend: Backend) -> None:
        for name in ("a.st", "b.st", "c.st"):
            backend.put(name, b"x")
        named = [backend.uri("c.st"), backend.uri("a.st")]
        shards = backend.storage.list_shards(backend.source, "b*", named)
        assert [shard.uri for shard in shards] == named

    def test_a_missing_file_is_named(self, backend: Backend) -> None:
        backend.put("a.st", b"x")
        files = [backend.uri("a.st"), backend.uri("gone.st")]
        with pytest.raises(SourceNotFound) as caught:
            backend.storage.list_shards(backend.source, None, files)
        assert backend.uri("gone.st") in str(caught.value)

    def test_a_file_is_its_own_only_shard(self, backend: Backend) -> None:
        backend.put("a.bin", b"xyz")
        (shard,) = backend.storage.list_shards(backend.uri("a.bin"), None, None)
        assert (shard.uri, shard.size_bytes) == (backend.uri("a.bin"), 3)

    def test_identity_stays_with_the_content(self, backend: Backend) -> None:
        first = self.one(backend, content(100))
        named = [backend.uri("a.safetensors")]
        assert backend.storage.list_shards(backend.source, None, named) == (first,)
        assert self.one(backend, content(100, seed=2)).identity != first.identity

    # --- reading

    @pytest.mark.parametrize("aligned", [True, False], ids=["aligned", "unaligned"])
    @pytest.mark.parametrize(
        ("start", "stop"),
        [
            (0, SIZE),
            (0, 1024 * KIB),
            (64 * KIB, SIZE - 5),
            (2 * 1024 * KIB, SIZE),
            (1, 2),
            (4095, 4097),
            (777, 2_000_001),
            (SIZE - 1, SIZE),
            (SIZE, SIZE),
        ],
    )
    def test_every_range(self, backend: Backend, start: int, stop: int, aligned: bool) -> None:
        data = content(SIZE)
        reader = backend.storage.open(self.one(backend, data))
        with mmap.mmap(-1, SIZE + 4096) as memory, memoryview(memory) as whole:
            at = 4096 if aligned else 4096 + 13
            memory[:] = b"\xee" * len(memory)
            with whole[at : min(at + stop - start, len(whole))] as target:
                size = len(target)
                parts: list[bytes] = []
                told = reader.readinto(target, start, lambda part: parts.append(bytes(part)))
                assert target == data[start : start + size]
                assert b"".join(parts) == target, (
                    "told of each part once, in order, when it was there"
                )
            assert memory[:at] == b"\xee" * at, "wrote before the buffer"
            assert set(memory[at + size :]) <= {0xEE}, "wrote behind the buffer"
        reader.close()
        assert told == -1 or 0 <= told <= size

    def test_reading_twice_gives_the_same(self, backend: Backend) -> None:
        data = content(300 * KIB)
        reader = backend.storage.open(self.one(backend, data))
        for _ in range(2):
            target = bytearray(len(data))
            reader.readinto(memoryview(target), 0)
            assert target == data
        reader.close()

    def test_a_shard_without_bytes(self, backend: Backend) -> None:
        shard = self.one(backend, b"")
        assert shard.size_bytes == 0
        reader = backend.storage.open(shard)
        assert reader.readinto(memoryview(bytearray()), 0) in (0, -1)
        reader.close()

    def test_threads_read_different_blocks_of_one_reader(self, backend: Backend) -> None:
        data = content(SIZE)
        reader = backend.storage.open(self.one(backend, data))
        memory = mmap.mmap(-1, SIZE)

        def read(start: int) -> None:
            with memoryview(memory) as whole, whole[start : start + 64 * KIB] as target:
                reader.readinto(target, start)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(0, SIZE, 64 * KIB)))
        assert memory[:] == data
        memory.close()
        reader.close()

    def test_close_is_idempotent(self, backend: Backend) -> None:
        reader = backend.storage.open(self.one(backend, b"x"))
        reader.close()
        reader.close()

    # --- change

    def test_opening_what_has_changed(self, backend: Backend) -> None:
        shard = self.one(backend, content(100))
        backend.put("a.safetensors", content(100, seed=2))
        self.expect_changed(shard, lambda: self.first_read(backend, shard))

    def test_opening_what_has_vanished(self, backend: Backend) -> None:
        shard = self.one(backend, content(100))
        backend.remove("a.safetensors")
        self.expect_changed(shard, lambda: self.first_read(backend, shard))

    def first_read(self, backend: Backend, shard: StoredShard) -> None:
        """Open a shard and read it.

        Where each read proves the content, opening need not ask the store.
        """
        target = bytearray(10)
        reader = backend.storage.open(shard)
        try:
            reader.readinto(memoryview(target), 0)
        finally:
            reader.close()
            assert target == bytes(10), "bytes of another content were handed out"

    @pytest.mark.parametrize("size", [SIZE, 100, 0, SIZE + 5000], ids=str)
    def test_change_during_the_load(self, backend: Backend, size: int) -> None:
        shard = self.one(backend, content(SIZE))
        reader = backend.storage.open(shard)
        target = memoryview(bytearray(64 * KIB))
        reader.readinto(target, 0)
        backend.put("a.safetensors", content(size, seed=2))
        self.expect_changed(shard, lambda: reader.readinto(target, 2 * 1024 * KIB))
        reader.close()

    def expect_changed(self, shard: StoredShard, call: object) -> None:
        assert callable(call)
        with pytest.raises(SourceChanged) as caught:
            call()
        assert isinstance(caught.value, SourceError)
        text = str(caught.value)
        assert text.startswith(f"{shard.uri}: ")
        assert "open the checkpoint again" in text


class StorageContract(ReadingContract):
    """The whole contract. Inherit it, and define the fixture `backend`."""

    def test_default_pattern_takes_safetensors_in_natural_order(self, backend: Backend) -> None:
        for name in ("m-10.safetensors", "m-2.safetensors", "m-1.safetensors", "config.json"):
            backend.put(name, name.encode())
        shards = backend.storage.list_shards(backend.source, None, None)
        assert [shard.uri for shard in shards] == [
            backend.uri(f"m-{number}.safetensors") for number in (1, 2, 10)
        ]
        assert [shard.size_bytes for shard in shards] == [15, 15, 16]
        assert len({shard.identity for shard in shards}) == 3

    def test_pattern_takes_what_it_says(self, backend: Backend) -> None:
        for name in ("rank-0-part-0.st", "rank-0-part-1.st", "rank-1-part-0.st"):
            backend.put(name, b"x")
        shards = backend.storage.list_shards(backend.source, "rank-0-part-*.st", None)
        assert [shard.uri for shard in shards] == [
            backend.uri("rank-0-part-0.st"),
            backend.uri("rank-0-part-1.st"),
        ]

    def test_no_match_names_pattern_and_what_is_there(self, backend: Backend) -> None:
        backend.put("model-rank-0.safetensors", b"x")
        backend.put("config.json", b"x")
        with pytest.raises(SourceNotFound) as caught:
            backend.storage.list_shards(backend.source, "model-rank-7*", None)
        text = str(caught.value)
        assert "'model-rank-7*'" in text
        assert "config.json, model-rank-0.safetensors" in text

    def test_missing_source(self, backend: Backend) -> None:
        backend.put("a.st", b"x")
        with pytest.raises(SourceNotFound) as caught:
            backend.storage.list_shards(backend.uri("absent"), None, None)
        assert "absent" in str(caught.value)

    def test_everything_under_a_source(self, backend: Backend) -> None:
        for name in ("m-10.safetensors", "m-2.safetensors", "config.json", "sub/dir/vocab.txt"):
            backend.put(name, name.encode())
        found = backend.storage.list_all(backend.source)
        names = ("config.json", "m-2.safetensors", "m-10.safetensors", "sub/dir/vocab.txt")
        assert [shard.uri for shard in found] == [backend.uri(name) for name in names]
        assert [shard.size_bytes for shard in found] == [len(name) for name in names]
        reader = backend.storage.open(found[-1])
        target = bytearray(found[-1].size_bytes)
        reader.readinto(memoryview(target), 0)
        reader.close()
        assert target == b"sub/dir/vocab.txt"
