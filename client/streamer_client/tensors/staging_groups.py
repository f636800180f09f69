"""Which tensors of a shard are staged in one allocation. Pure arithmetic over byte ranges.

Allocating, copying and telling of ten thousand small tensors one by one costs more than their
bytes. So neighbours that are small share an allocation, and where their bytes may lie there as in
the file, one copy fills them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from streamer_client.contract.catalog import TensorEntry

SMALL_BYTES: Final = 1 << 20
"""Larger tensors have an allocation of their own, as they may be kept while others are dropped."""
GROUP_BYTES: Final = 64 << 20
ALIGNMENT_BYTES: Final = 16
"""What kernels that load vectors want of a tensor's address."""


class GroupSpan:
    """Bytes `start` to `stop` of the shard, which go to the group's memory from `at` on."""

    __slots__ = ("at", "entries", "group", "start", "stop")

    def __init__(self, group: StagingGroup, start: int, at: int) -> None:
        self.group = group
        self.start = self.stop = start
        self.at = at
        self.entries: list[TensorEntry] = []


class StagingGroup:
    """Tensors of one allocation, in file order.

    Each span's tensors lie one after the other; an empty tensor is part of a span like any other.
    """

    __slots__ = ("size_bytes", "spans")

    def __init__(self) -> None:
        self.spans: list[GroupSpan] = []
        self.size_bytes = 0
        """Of the allocation; the tensors and what aligns them."""

    @property
    def single(self) -> bool:
        return len(self.spans) == 1 and len(self.spans[0].entries) == 1

    def add(self, entry: TensorEntry) -> None:
        """Add a tensor, to the last span if it goes on there and is aligned."""
        spans, at = self.spans, self.size_bytes
        if not spans or spans[-1].stop != entry.start or at % ALIGNMENT_BYTES:
            at += -at % ALIGNMENT_BYTES
            spans.append(GroupSpan(self, entry.start, at))
        span = spans[-1]
        span.entries.append(entry)
        span.stop = entry.stop
        self.size_bytes = at + entry.stop - entry.start


def each_alone(entries: Sequence[TensorEntry]) -> Iterator[StagingGroup]:
    """A group for each tensor."""
    for entry in entries:
        group = StagingGroup()
        group.add(entry)
        yield group


def small_together(
    entries: Sequence[TensorEntry], small_bytes: int = SMALL_BYTES
) -> Iterator[StagingGroup]:
    """Neighbours that are small share a group; small are those of at most `small_bytes`."""
    group = StagingGroup()
    for entry in entries:
        small = entry.stop - entry.start <= small_bytes
        if group.spans and (not small or group.size_bytes >= GROUP_BYTES):
            yield group
            group = StagingGroup()
        group.add(entry)
        if not small:
            yield group
            group = StagingGroup()
    if group.spans:
        yield group
