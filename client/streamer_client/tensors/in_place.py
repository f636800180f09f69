"""Targets that are filled in place: stored bytes go straight into the targets' own memory.

Decides which targets can be filled so, namely those of the stored dtype and shape whose memory is
laid out as the file is, and which targets share memory. Treating ten thousand small parameters one
by one, at each step of a copy, takes longer than copying their bytes. So stored neighbours whose
targets are filled in place make one span. A span is planned, copied and counted as a whole,
wherever its targets lie in memory. Copying threads use a span's memory; everything else runs in the
caller's thread.
"""

from __future__ import annotations

import array
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch

from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.destination import memory_at
from streamer_client.copy.dtypes import torch_form

SMALL_BYTES: Final = 1 << 20
"""A larger tensor is a span of its own, so that the user hears of it as soon as it is loaded."""
SPAN_BYTES: Final = 8 << 20
"""A span ends once it has this many bytes, so that it is copied while the next is planned."""


# --- which targets can be filled in place --------------------------------------------------------


def matches(entry: TensorEntry, target: torch.Tensor) -> bool:
    """Whether the target has the dtype and shape in which `entry` is stored."""
    dtype, shape = torch_form(entry.dtype, entry.shape)
    return target.dtype == dtype and target.shape == shape


def plain(target: torch.Tensor) -> bool:
    """Whether the target's elements lie in memory without gaps, in the order of the file."""
    return (
        target.layout == torch.strided
        and target.is_contiguous()
        and not target.is_neg()
        and not (target.is_complex() and target.is_conj())
    )


def sharing_groups(targets: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """A group number for each target whose memory overlaps another's; other names are left out.

    Such targets are tied parameters, or views of one tensor. Strided targets whose extents
    interleave count as overlapping even if they have no byte in common. They are then filled in the
    slower way, which is always right.
    """
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in targets.items():
        by_device.setdefault(tensor.device, []).append(name)
    groups: dict[str, int] = {}
    numbers = itertools.count()
    for names in by_device.values():
        _add_groups(groups, numbers, names, [targets[name] for name in names])
    return groups


def _add_groups(
    groups: dict[str, int], numbers: Iterator[int], names: list[str], tensors: list[torch.Tensor]
) -> None:
    """Add the groups of one device's targets.

    Works on lists of numbers for speed: there may be thousands of targets that share nothing.
    """
    starts = [tensor.data_ptr() for tensor in tensors]
    stops = [start + _bytes_spanned(one) for start, one in zip(starts, tensors, strict=True)]
    group, stop, previous = next(numbers), 0, ""
    for place in sorted(range(len(names)), key=starts.__getitem__):
        if starts[place] == stops[place]:
            continue
        if starts[place] < stop:
            groups[previous] = groups[names[place]] = group
            stop = max(stop, stops[place])
        else:
            stop = stops[place]
            group = next(numbers)
        previous = names[place]


def _bytes_spanned(tensor: torch.Tensor) -> int:
    """Bytes from the tensor's first element in memory to the end of its last."""
    if tensor.is_contiguous():
        return tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size() if tensor.numel() else 0


# --- spans ---------------------------------------------------------------------------------------


class InPlace:
    """The memory of one span's targets. Serves as a `Target` itself.

    Args:
        entries: stored tensors, in file order and without a gap between them.
        targets: the target of each entry, `matches` and `plain`; all on the host, or none.
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
        """Where each tensor begins, counted from `start`; one more entry tells where the last ends.
        """
        self._offsets.append(self.left_bytes)

    def extents(self, start: int, stop: int) -> array.array[int]:
        """See `Target`. One extent for each tensor: only CUDA knows which share an allocation."""
        first, past = self._places(start, stop)
        offsets = self._offsets
        found = array.array("Q", bytes(16 * (past - first)))
        found[0::2] = self._addresses[first:past]
        found[1::2] = array.array(
            "Q", [b - a for a, b in itertools.pairwise(offsets[first : past + 1])]
        )
        skipped = start - offsets[first]
        found[0] += skipped
        found[1] -= skipped
        found[-1] -= offsets[past] - stop
        return found

    def memories(self, start: int, stop: int) -> Iterator[memoryview]:
        """See `Target`. Tensors that are neighbours in memory share a buffer."""
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
        """See `Target`. Names the first of several tensors and counts the others."""
        first, past = self._places(start, stop)
        begin = self._offsets[first]
        end = min(stop, self._offsets[first + 1])
        more = f" and {past - first - 1} more tensors" if past > first + 1 else ""
        name = self.entries[first].name
        return f"bytes {start - begin} to {end - begin} of tensor {name} of {self.uri}{more}"

    def _places(self, start: int, stop: int) -> tuple[int, int]:
        """First and last + 1 of the tensors with bytes in this range; empty ones between count."""
        return bisect_right(self._offsets, start) - 1, bisect_left(self._offsets, stop)


class InPlaceSpans:
    """Joins one shard's tensors, added in file order, into spans.

    Args:
        uri: the shard, for the text of errors.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._entries: list[TensorEntry] = []
        self._targets: list[torch.Tensor] = []
        self._start = self._stop = 0
        self._on_host = False
        self._small = False

    def add(self, entry: TensorEntry, target: torch.Tensor) -> Sequence[InPlace]:
        """Add a tensor to the open span, or close that span and open another with the tensor.

        Returns:
            The span that was closed, if one was.
        """
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
        """Close the open span.

        Returns:
            That span; nothing if no tensor was added since the last span was closed.
        """
        entries, self._entries = self._entries, []
        targets, self._targets = self._targets, []
        return (InPlace(entries, targets, self._uri),) if entries else ()
