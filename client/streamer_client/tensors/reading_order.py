"""Which blocks a pass over tensors needs, in the order of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from streamer_client.contract.catalog import ShardCatalog, TensorEntry
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.copy.block_jobs import data_order
from streamer_client.copy.feed import Feed
from streamer_client.tensors.headers import ShardHeaders

Select = Callable[[int, ShardCatalog], Sequence[TensorEntry]]
"""Chooses the tensors of a shard that are wanted, keeping the file order."""


def by_name(names: frozenset[str] | None) -> Select:
    """Chooses the tensors with these names; all of them for None."""

    def select(_shard: int, catalog: ShardCatalog) -> Sequence[TensorEntry]:
        if names is None:
            return catalog.entries
        return [entry for entry in catalog.entries if entry.name in names]

    return select


def reading_order(
    feed: Feed, headers: ShardHeaders, select: Select, first: int = 0
) -> tuple[BlockRange, ...]:
    """Blocks of shards `first` and later.

    All blocks of a shard whose header is not known yet, for it is read on the way, and then
    `select` must choose all its tensors; else those that hold bytes of the chosen ones.
    """
    return tuple(
        item
        for shard in range(first, len(feed.shards))
        for item in _shard_order(feed, headers, select, shard)
    )


def _shard_order(
    feed: Feed, headers: ShardHeaders, select: Select, shard: int
) -> Iterator[BlockRange]:
    known = headers.known(shard)
    size_bytes = feed.shards[shard].size_bytes
    if known is not None:
        yield from data_order(shard, select(shard, known), feed.block_bytes)
    elif size_bytes:
        yield BlockRange(shard, 0, block_count(size_bytes, feed.block_bytes))
