"""Readers of a worker, by slab and environment; the retries of each are reported once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from streamer_client.storage.contract import Arrived, StoredShard
from streamerd.workers.in_worker import readers as readers_module
from streamerd.workers.in_worker.readers import OpenedObject, Readers

SHARD = StoredShard("s3://b/k", 10, "etag")


class Reader:
    piece_bytes = 0

    def __init__(self) -> None:
        self.retries = 0
        self.closed = False

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        return len(buffer)

    def close(self) -> None:
        self.closed = True


class Storage:
    def __init__(self, environment: Mapping[str, str]) -> None:
        made.append((dict(environment), Reader()))

    def open(self, shard: StoredShard) -> Reader:
        return made[-1][1]


made: list[tuple[dict[str, str], Reader]] = []


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Readers:
    made.clear()
    monkeypatch.setattr(readers_module, "storage_for", lambda _uri, env: Storage(env))
    return Readers(8)


def use(readers: Readers, slab: int, environment: dict[str, str]) -> OpenedObject:
    with readers.borrow(slab, SHARD, environment) as opened:
        return opened


def test_renewed_credentials_open_a_reader_of_their_own(readers: Readers) -> None:
    first = use(readers, 1, {"TOKEN": "1", "REGION": "eu"})
    assert use(readers, 1, {"REGION": "eu", "TOKEN": "1"}) is first
    assert use(readers, 1, {"TOKEN": "2", "REGION": "eu"}) is not first
    assert use(readers, 2, {"TOKEN": "1", "REGION": "eu"}) is not first
    assert len(made) == 3
    assert "TOKEN" not in repr(readers._pool._entries.keys())
    readers.close()


def test_a_slabs_readers_go_with_it_whatever_their_environment(readers: Readers) -> None:
    for slab, token in ((1, "1"), (1, "2"), (2, "1")):
        use(readers, slab, {"TOKEN": token})
    readers.drop(1)
    assert [reader.closed for _, reader in made] == [True, True, False]
    readers.close()
    assert all(reader.closed for _, reader in made)


def test_each_retry_is_told_once() -> None:
    reader = Reader()
    opened = OpenedObject(reader)
    reader.retries = 3
    assert [opened.take_retries(), opened.take_retries()] == [3, 0]
    reader.retries = 4
    assert opened.take_retries() == 1
