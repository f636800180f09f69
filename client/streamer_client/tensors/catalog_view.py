"""A whole checkpoint's tensors by name: what `Checkpoint.catalog` shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from streamer_client.contract.catalog import ShardCatalog, TensorEntry


class CatalogEntry(msgspec.Struct, frozen=True, gc=False):
    """One tensor: bytes `start` to `stop` (half-open) of the file `uri`."""

    name: str
    dtype: str
    """As safetensors names it, for example `BF16`."""
    shape: tuple[int, ...]
    start: int
    stop: int
    uri: str


class Catalog(Mapping[str, CatalogEntry]):
    """Name to `CatalogEntry`, in file order."""

    def __init__(self, shards: Sequence[ShardCatalog]) -> None:
        self._entries: dict[str, tuple[str, TensorEntry]] = {
            entry.name: (shard.uri, entry) for shard in shards for entry in shard.entries
        }
        self.metadata: dict[str, dict[str, str]] = {shard.uri: shard.metadata for shard in shards}
        """Each shard's `__metadata__`."""

    def __getitem__(self, name: str) -> CatalogEntry:
        uri, entry = self._entries[name]
        return CatalogEntry(entry.name, entry.dtype, entry.shape, entry.start, entry.stop, uri)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
