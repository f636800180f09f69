"""How the scripted daemon behaves, and the shards that a load of it reads."""

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
    """How the stand-in behaves; may be changed while it runs."""

    block_bytes: int = 64 << 10
    window_blocks: int = 1_000_000
    holds: bool = True
    heartbeat_s: float = 5.0
    welcome_protocol: int = PROTOCOL
    right_proof: bool = True
    """Whether `Welcome` repeats what the greeting told."""
    allowed_grants: int = 1_000_000
    silent: bool = False
    refuse_open: StreamerError | None = None
    refuse_requests: StreamerError | None = field(
        default_factory=lambda: RequestRefused("the script says no")
    )
    """What prefetch and cache control are answered with; None: they are carried out."""
    waits_first: int = 0
    fail_shards: dict[int, StreamerError] = field(default_factory=dict)
    """Told instead of the next grant."""
    change_identity: bool = False
    resident_bytes: int = 0
    """What an open is told that was in memory."""
    compared: bool = True
    """Without it loads are opened uncompared; `ScriptedDaemon.compare` ends that."""
    slabs_first: bool = False
    """Whether slabs overtake the answer that they belong to, as they may on their other socket."""
    memfd: bool = False
    """Slabs without names."""
    short_slabs: bool = False
    """Slabs smaller than their shards."""
    adopts: dict[str, str] = field(default_factory=dict)
    """URI to slab of an earlier daemon, whose bytes count as granted when they are wanted."""


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
        """What `Opened` says of the shards; each identity ends with `suffix`."""
        return tuple(
            OpenedShard(one.uri, one.identity + suffix, one.size_bytes, self.held)
            for one in self.stored
        )

    def span(self, shard: int, block: int, block_bytes: int) -> tuple[int, int]:
        """Where a block begins and ends in its shard."""
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
    """Over copies: the transfer is dropped before the load ends."""
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
