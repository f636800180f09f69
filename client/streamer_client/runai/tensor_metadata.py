"""What callers learn of a stored tensor before it is read, as Run:ai tells it."""

from __future__ import annotations

from math import prod
from typing import Final, NamedTuple

import torch

from streamer_client.contract.catalog import ShardCatalog, TensorEntry
from streamer_client.copy.dtypes import torch_form


class Offsets(NamedTuple):
    """Bytes `start` to `end` of the file's data section, which begins after the header."""

    start: int
    end: int

    def get_diff(self) -> int:
        """Bytes between the two."""
        return self.end - self.start


class SafetensorMetadata:
    """One stored tensor."""

    __slots__ = ("dtype", "entry", "name", "offsets", "shape")

    def __init__(self, entry: TensorEntry, data_start: int) -> None:
        self.entry: Final = entry
        self.name = entry.name
        self.shape = list(entry.shape)
        self.dtype = entry.dtype
        self.offsets = Offsets(entry.start - data_start, entry.stop - data_start)

    def get_bytesize(self) -> int:
        """Stored bytes."""
        return self.offsets.get_diff()

    def get_item_count(self) -> int:
        """Elements, as the header counts them."""
        return prod(self.shape)

    def get_torch_dtype(self) -> torch.dtype:
        """The dtype in which it is handed out."""
        return torch_form(self.entry.dtype, self.entry.shape)[0]

    def get_element_size(self) -> int:
        """Bytes of one element of that dtype."""
        return self.get_torch_dtype().itemsize

    def __repr__(self) -> str:
        return f"SafetensorMetadata({self.name!r}, {self.dtype}, {self.shape})"


def metadata_of(catalog: ShardCatalog, names: frozenset[str] | None) -> list[SafetensorMetadata]:
    """A shard's tensors, or the named ones of them, in file order."""
    return [
        SafetensorMetadata(entry, catalog.data_start)
        for entry in catalog.entries
        if names is None or entry.name in names
    ]
