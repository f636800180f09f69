"""The behaviour of the scripted daemon, and the shards that its loads read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from streamer_client.contract.errors import RequestRefused, StreamerError
from streamer_client.contract.layout import block_count, block_span
from streamer_client.contract.messages import (
    PROTOCOL,
    Open,
    OpenedShard,
)
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import Reader, StoredShard
from streamer_client.storage.local_reader import LocalReader, identity_of
from streamer_client.storage.registry import storage_for
from tests.support.descriptor_end import HandedPair, Manners, Session


@dataclass
class Script(Manners):
    """The behaviour of the stand-in; a test may change it while the stand-in runs."""

    block_bytes: int = 64 << 10
    window_blocks: int = 1_000_000
    holds: bool = True
    heartbeat_s: float = 5.0
    welcome_protocol: int = PROTOCOL
    right_proof: bool = True
    """Whether `Welcome` repeats the proof of the greeting."""
    allowed_grants: int = 1_000_000
    silent: bool = False
    refuse_open: StreamerError | None = None
    refuse_requests: StreamerError | None = field(
        default_factory=lambda: RequestRefused("the script says no")
    )
    """The answer to prefetch and cache control; if None, they are carried out."""
    waits_first: int = 0
    fail_shards: dict[int, StreamerError] = field(default_factory=dict)
    """Errors that are told instead of the next grant, by shard."""
    change_identity: bool = False
    resident_bytes: int = 0
    """How many resident bytes an open is told of."""
    compared: bool = True
    """Whether loads are opened as compared; `ScriptedDaemon.compare` ends a comparison."""
    slabs_first: bool = False
    """Whether slabs come before the answer that they belong to, as the other socket allows."""
    memfd: bool = False
    """Whether slabs have no names."""
    short_slabs: bool = False
    """Whether slabs are smaller than their shards."""
    adopts: dict[str, str] = field(default_factory=dict)
    """For each URI a slab of an earlier daemon, whose bytes count as granted once wanted."""


@dataclass
class ScriptedLoad:
    client: bytes
    session: Session
    number: int
    stored: tuple[StoredShard, ...]
    readers: list[Reader]
    slabs: list[tuple[str, int]]
    held: bool
    wanted: list[tuple[int, int]]
    granted: set[tuple[int, int]] = field(default_factory=set)

    def blocks(self, block_bytes: int) -> list[tuple[int, int]]:
        """Every block of every shard, in file order."""
        return [
            (shard, block)
            for shard, one in enumerate(self.stored)
            for block in range(block_count(one.size_bytes, block_bytes))
        ]

    def opened_shards(self, suffix: str) -> tuple[OpenedShard, ...]:
        """The shards as `Opened` has them; each identity ends with `suffix`."""
        return tuple(
            OpenedShard(one.uri, one.identity + suffix, one.size_bytes, self.held)
            for one in self.stored
        )

    def span(self, shard: int, block: int, block_bytes: int) -> tuple[int, int]:
        """The first byte of a block in its shard, and the one past its last."""
        return block_span(block, self.stored[shard].size_bytes, block_bytes)

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        for _, fd in self.slabs:
            os.close(fd)


def _stored(pair: HandedPair) -> StoredShard:
    status = os.fstat(pair.fd)
    return StoredShard(pair.name, status.st_size, identity_of(status))


def _reader(stored: StoredShard, pair: HandedPair) -> LocalReader:
    """Make a reader of copies, since the transfer is dropped before the load ends."""
    copies = [os.dup(fd) for fd in pair[1:] if fd is not None]
    return LocalReader(copies[0], stored, *copies[1:])


def found_shards(session: Session, message: Open) -> tuple[tuple[StoredShard, ...], list[Reader]]:
    """The shards that a client opens, and a reader for each."""
    if message.transfer:
        pairs = session.transfers[message.transfer]
        stored = tuple(map(_stored, pairs))
        return stored, [_reader(*one) for one in zip(stored, pairs, strict=True)]
    uri = message.files[0] if message.files else message.source
    assert is_remote(uri), "a local source was opened by its name"
    storage = storage_for(uri, os.environ)
    stored = storage.list_shards(message.source, message.pattern, message.files)
    return stored, [storage.open(one) for one in stored]
