"""Reading without a daemon: credentials are renewed, and the source gets as few requests as
possible.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from streamer_client.contract.errors import CredentialsExpired, SourceChanged
from streamer_client.delivery.direct_feed import DirectFeed, same_shards
from streamer_client.storage.contract import Arrived, StoredShard

DATA = bytes(range(256)) * 2400
SHARD = StoredShard("/m/a", len(DATA), "id")


class Bytes:
    """A reader of `DATA` whose credentials may expire."""

    retries = 0

    def __init__(self, piece_bytes: int) -> None:
        self.piece_bytes = piece_bytes
        self.expired = False
        self.closed = False
        self.reads: list[tuple[int, int]] = []

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        if self.expired:
            raise CredentialsExpired("the token has expired")
        self.reads.append((start, len(buffer)))
        buffer[:] = DATA[start : start + len(buffer)]
        return len(buffer)

    def close(self) -> None:
        self.closed = True


class Store:
    """A storage that always returns the same reader."""

    def __init__(self, piece_bytes: int = 4096) -> None:
        self.reader = Bytes(piece_bytes)

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        return (SHARD,)

    def list_all(self, source: str, take: object = None) -> tuple[StoredShard, ...]:
        return (SHARD,)

    def open(self, shard: StoredShard) -> Bytes:
        return self.reader


def read(feed: DirectFeed, *sizes: int) -> list[bytes]:
    buffers = [bytearray(size) for size in sizes]
    feed.read_into([memoryview(buffer) for buffer in buffers], 0, 0)
    return [bytes(buffer) for buffer in buffers]


def test_expired_credentials_are_renewed_and_the_read_goes_on() -> None:
    old, new = Store(), Store()
    left = [new]
    feed = DirectFeed(old, [SHARD], threads=1, renewed=lambda: left.pop() if left else None)
    assert read(feed, 10) == [DATA[:10]]
    old.reader.expired = True
    assert read(feed, 20) == [DATA[:20]]
    assert not old.reader.closed, "another thread may still be reading with it"
    new.reader.expired = True
    with pytest.raises(CredentialsExpired, match="token"):
        read(feed, 10)
    feed.close()
    assert old.reader.closed
    assert new.reader.closed


def test_what_costs_a_request_each_is_asked_for_at_once() -> None:
    whole, pieces = Store(0), Store(4096)
    for store in (whole, pieces):
        read(DirectFeed(store, [SHARD], threads=1), 300 << 10, 300 << 10)
    assert whole.reader.reads == [(0, 600 << 10)]
    assert pieces.reader.reads == [(0, 300 << 10), (300 << 10, 300 << 10)]


def test_a_changed_shard_is_not_taken_for_the_same() -> None:
    same_shards([SHARD], [("/m/a", "id", len(DATA))])
    with pytest.raises(SourceChanged, match="/m/a"):
        same_shards([SHARD], [("/m/a", "other", len(DATA))])
