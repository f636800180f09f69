"""Tensors that are read straight into their targets' own memory, many as one.

Asking ten thousand small parameters one by one, at each step of a copy, costs more than their
bytes. So neighbours of a file whose targets take them as they are make one span: planned, copied
and counted as one, wherever their memory lies.
"""

from __future__ import annotations

import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import torch

from streamer_client.contract.catalog import TensorEntry
from streamer_client.copy.destination import memory_at

SMALL_BYTES: Final = 1 << 20
"""Larger tensors are spans of their own: each is told of as soon as it is there."""
SPAN_BYTES: Final = 8 << 20
"""So that a span is copied while the next is planned."""


class InPlace:
    """One span. A `Target`.

    Args:
        entries: stored tensors, in file order and without a gap between them.
        targets: for each the memory it goes to, where its elements lie as the stored ones do; all
            of it on the host, or none.
        uri: the shard, for the text of errors.
    """

    __slots__ = (
        "_addresses", "_offsets", "_targets", "entries", "left_bytes", "on_host", "start", "stop",
        "uri",
    )  # fmt: skip

    def __init__(
        self, entries: Sequence[TensorEntry], targets: Sequence[torch.Tensor], uri: str
    ) -> None:
        self.entries = entries
        self.start = start = entries[0].start
        self.stop = entries[-1].stop
        self.left_bytes = self.stop - start
        self.uri = uri
        self.on_host = targets[0].is_cpu
        self._targets = targets
        self._addresses = array.array("Q", [target.data_ptr() for target in targets])
        self._offsets = array.array("Q", [entry.start - start for entry in entries])
        """Where each tensor begins, and behind the last where it ends, from `start` on."""
        self._offsets.append(self.left_bytes)

    def extents(self, start: int, stop: int) -> array.array[int]:
        """See `Target`; one for each tensor, as only CUDA knows which lie in one allocation."""
        first, past = self._places(start, stop)
        offsets = self._offsets
        found = array.array("Q", bytes(16 * (past - first)))
        found[0::2] = self._addresses[first:past]
        found[1::2] = array.array("Q", [b - a for a, b in pairwise(offsets[first : past + 1])])
        skipped = start - offsets[first]
        found[0] += skipped
        found[1] -= skipped
        found[-1] -= offsets[past] - stop
        return found

    def memories(self, start: int, stop: int) -> Iterator[memoryview]:
        """See `Target`; neighbours in memory are one."""
        extents = self.extents(start, stop)
        at, size = extents[0], 0
        for address, more in zip(extents[0::2], extents[1::2], strict=True):
            if address != at + size and more:
                if size:
                    yield memory_at(at, size)
                at, size = address, 0
            size += more
        if size:
            yield memory_at(at, size)

    def flats(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """See `Target`."""
        first, past = self._places(start, stop)
        for place in range(first, past):
            begin = self._offsets[place]
            part = slice(max(start - begin, 0), stop - begin)
            yield self._targets[place].data.reshape(-1).view(torch.uint8)[part]

    def told(self, start: int, stop: int) -> str:
        """See `Target`; names the first of several tensors."""
        first, past = self._places(start, stop)
        begin = self._offsets[first]
        end = min(stop, self._offsets[first + 1])
        more = f" and {past - first - 1} more tensors" if past > first + 1 else ""
        name = self.entries[first].name
        return f"bytes {start - begin} to {end - begin} of tensor {name} of {self.uri}{more}"

    def _places(self, start: int, stop: int) -> tuple[int, int]:
        """Which tensors have bytes between; empty ones in their midst included."""
        return bisect_right(self._offsets, start) - 1, bisect_left(self._offsets, stop)


class InPlaceSpans:
    """Makes spans of one shard of the tensors that are added, in file order.

    Args:
        uri: the shard.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._entries: list[TensorEntry] = []
        self._targets: list[torch.Tensor] = []
        self._start = self._stop = 0
        self._on_host = False
        self._small = False

    def add(self, entry: TensorEntry, target: torch.Tensor) -> Sequence[InPlace]:
        """Add a tensor to the span of those before; the span that it has no place in is done."""
        small = entry.stop - entry.start <= SMALL_BYTES
        done: Sequence[InPlace] = ()
        if not (
            small
            and self._small
            and entry.start == self._stop
            and target.is_cpu is self._on_host
            and self._stop - self._start < SPAN_BYTES
        ):
            done = self.cut()
            self._start, self._small, self._on_host = entry.start, small, target.is_cpu
        self._entries.append(entry)
        self._targets.append(target)
        self._stop = entry.stop
        return done

    def cut(self) -> Sequence[InPlace]:
        """The span of what was added since the last one; none if nothing was."""
        entries, self._entries = self._entries, []
        targets, self._targets = self._targets, []
        return (InPlace(entries, targets, self._uri),) if entries else ()
