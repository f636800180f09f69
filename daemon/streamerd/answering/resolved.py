"""What a worker found at a source, as the daemon takes it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from streamer_client.contract.errors import ConfigError, StreamerError, error_from_code
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.storage.contract import StoredShard
from streamerd.workers import jobs


class Stored(Protocol):
    """Something that stands for one stored shard."""

    @property
    def stored(self) -> StoredShard: ...


def resolved_shards(source: str, answer: jobs.Answer | None) -> tuple[StoredShard, ...]:
    """The shards of a source.

    Raises:
        StreamerError: what the worker met, as the class it was there.
    """
    match answer:
        case jobs.Resolved(_, shards):
            if len({shard.uri for shard in shards}) < len(shards):
                raise ConfigError(f"{source}: a file is named twice; name each once")
            return shards
        case jobs.JobFailed(_, code, message):
            raise error_from_code(code, message)
        case _:
            raise StreamerError(f"{source}: the worker that listed it died; try again")


def total_bytes(shards: Sequence[StoredShard]) -> int:
    """Their sizes in one."""
    return sum(shard.size_bytes for shard in shards)


S = TypeVar("S", bound=Stored)


def first_bytes(
    shards: Sequence[S], limit_bytes: int, block_bytes: int
) -> tuple[tuple[S, ...], tuple[BlockRange, ...]]:
    """The shards, and of each the blocks, that the first `limit_bytes` (-1: all) reach into.

    Raises:
        ConfigError: not even one block fits.
    """
    chosen: list[S] = []
    wants: list[BlockRange] = []
    left = limit_bytes
    for shard in shards:
        size_bytes = shard.stored.size_bytes
        blocks = block_count(size_bytes, block_bytes)
        if limit_bytes >= 0:
            blocks = blocks if left >= size_bytes else left // block_bytes
            left -= min(left, size_bytes)
        if blocks or not size_bytes:
            wants.append(BlockRange(len(chosen), 0, blocks))
            chosen.append(shard)
    if not chosen:
        raise ConfigError(
            f"--memory-limit {limit_bytes} is less than one block of {block_bytes} bytes"
        )
    return tuple(chosen), tuple(wants)
