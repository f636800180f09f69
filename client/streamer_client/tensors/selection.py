"""The tensors of a checkpoint, the wanted ones among them, and the blocks to read for these.

Works on headers that were read already (`headers.py`); only plans, and reads nothing. Runs in the
thread that uses the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.copy.feed import Feed
from streamer_client.copy.plan import data_order
from streamer_client.tensors.headers import ShardHeaders


class CatalogEntry(msgspec.Struct, frozen=True, gc=False):
    """One tensor: bytes `start` to `stop` (half-open) of the file `uri`."""

    name: str
    dtype: str
    """The dtype's name in safetensors, for example `BF16`."""
    shape: tuple[int, ...]
    start: int
    stop: int
    uri: str


def catalog_entry(uri: str, entry: TensorEntry) -> CatalogEntry:
    """A stored tensor as users see it, with the shard that holds it."""
    return CatalogEntry(entry.name, entry.dtype, entry.shape, entry.start, entry.stop, uri)


class Catalog(Mapping[str, CatalogEntry]):
    """Each name's `CatalogEntry`, in file order.

    Args:
        shards: all shards of the checkpoint.
        owners: for a name that is in several shards, the shard that counts.
    """

    def __init__(
        self, shards: Sequence[ShardCatalog], owners: Mapping[str, int] | None = None
    ) -> None:
        self._entries: dict[str, tuple[str, TensorEntry]] = {
            entry.name: (shard.uri, entry) for shard in shards for entry in shard.entries
        }
        for name, number in (owners or {}).items():
            found = self._entries.get(name)
            if found is not None and found[0] != shards[number].uri:
                self._own(name, shards[number])
        self.metadata: dict[str, dict[str, str]] = {shard.uri: shard.metadata for shard in shards}
        """Each shard's `__metadata__`."""

    def _own(self, name: str, shard: ShardCatalog) -> None:
        """Give a name to this shard, but only if the shard has it: an index may be stale."""
        found = next((entry for entry in shard.entries if entry.name == name), None)
        if found is not None:
            self._entries[name] = (shard.uri, found)

    def __getitem__(self, name: str) -> CatalogEntry:
        return catalog_entry(*self._entries[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


Select = Callable[[int, ShardCatalog], Sequence[TensorEntry]]
"""Chooses the wanted tensors of a shard, given its number and header; keeps the file order."""


def by_name(names: frozenset[str] | None) -> Select:
    """Choose the tensors with these names, or all tensors for None."""

    def select(_shard: int, catalog: ShardCatalog) -> Sequence[TensorEntry]:
        if names is None:
            return catalog.entries
        return [entry for entry in catalog.entries if entry.name in names]

    return select


def reading_order(
    feed: Feed, headers: ShardHeaders, select: Select, first: int = 0
) -> tuple[BlockRange, ...]:
    """The blocks that a pass reads in shard `first` and all later shards.

    If a shard's header is known, these are the blocks that hold bytes of the chosen tensors.
    Otherwise they are all its blocks: the pass reads the header on its way, and `select` must then
    choose all tensors of that shard.
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
