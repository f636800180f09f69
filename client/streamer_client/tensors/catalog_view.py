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
    """Name to `CatalogEntry`, in file order.

    Args:
        shards: all shards of the checkpoint.
        owners: which shard counts for a name that is in several.
    """

    def __init__(
        self, shards: Sequence[ShardCatalog], owners: Mapping[str, int] | None = None
    ) -> None:
        self._entries: dict[str, tuple[str, TensorEntry]] = {
            entry.name: (shard.uri, entry) for shard in shards for entry in shard.entries
        }
        for name, number in (owners or {}).items():
            held = self._entries.get(name)
            if held is not None and held[0] != shards[number].uri:
                self._own(name, shards[number])
        self.metadata: dict[str, dict[str, str]] = {shard.uri: shard.metadata for shard in shards}
        """Each shard's `__metadata__`."""

    def _own(self, name: str, shard: ShardCatalog) -> None:
        """Let a name be this shard's, if the shard has it: an index may be stale."""
        found = next((entry for entry in shard.entries if entry.name == name), None)
        if found is not None:
            self._entries[name] = (shard.uri, found)

    def __getitem__(self, name: str) -> CatalogEntry:
        uri, entry = self._entries[name]
        return CatalogEntry(entry.name, entry.dtype, entry.shape, entry.start, entry.stop, uri)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
