"""Memory for tensors that are handed out as private copies, and the tensors in it.

Allocating, filling and handing out ten thousand small tensors one by one takes longer than copying
their bytes. So small neighbours share an allocation, and one copy fills all that may lie in it as
they lie in the file. The first half decides which tensors share, by arithmetic over byte ranges
alone; the second half allocates. Runs in the thread that iterates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import torch

from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.destination import Contiguous, fresh
from streamer_client.copy.dtypes import torch_form

SMALL_BYTES: Final = 1 << 20
"""A larger tensor has its own allocation, as the caller may keep it and drop its neighbours."""
GROUP_BYTES: Final = 64 << 20
ALIGNMENT_BYTES: Final = 16
"""The alignment of a tensor's address that kernels need to load vectors."""

Handed = tuple[TensorEntry, torch.Tensor]

# --- which tensors share an allocation -----------------------------------------------------------


class GroupSpan:
    """Bytes `start` to `stop` of the shard, which go into the group's memory from `at` on."""

    __slots__ = ("at", "entries", "group", "start", "stop")

    def __init__(self, group: StagingGroup, start: int, at: int) -> None:
        self.group = group
        self.start = self.stop = start
        self.at = at
        self.entries: list[TensorEntry] = []


class StagingGroup:
    """The tensors of one allocation, in file order.

    The tensors of one span lie in the file without a gap. Empty tensors belong to spans too.
    """

    __slots__ = ("size_bytes", "spans")

    def __init__(self) -> None:
        self.spans: list[GroupSpan] = []
        self.size_bytes = 0
        """Size of the allocation: the tensors, and the padding that aligns spans."""

    @property
    def single(self) -> bool:
        """Whether the group has exactly one tensor."""
        return len(self.spans) == 1 and len(self.spans[0].entries) == 1

    def add(self, entry: TensorEntry) -> None:
        """Add a tensor: to the last span if it follows without a gap and would be aligned."""
        spans, at = self.spans, self.size_bytes
        if not spans or spans[-1].stop != entry.start or at % ALIGNMENT_BYTES:
            at += -at % ALIGNMENT_BYTES
            spans.append(GroupSpan(self, entry.start, at))
        span = spans[-1]
        span.entries.append(entry)
        span.stop = entry.stop
        self.size_bytes = at + entry.stop - entry.start


def each_alone(entries: Sequence[TensorEntry]) -> Iterator[StagingGroup]:
    """One group for each tensor."""
    for entry in entries:
        group = StagingGroup()
        group.add(entry)
        yield group


def small_together(
    entries: Sequence[TensorEntry], small_bytes: int = SMALL_BYTES
) -> Iterator[StagingGroup]:
    """One group for each tensor of over `small_bytes`; smaller neighbours share a group."""
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


# --- the memory ----------------------------------------------------------------------------------


class Staged(Contiguous):
    """The memory of one span. Serves as a `Target`."""

    __slots__ = ("address", "flat", "left_bytes", "owner", "span")

    def __init__(self, owner: StagedGroup, span: GroupSpan) -> None:
        size_bytes = span.stop - span.start
        self.owner = owner
        self.span = span
        self.left_bytes = size_bytes
        self.flat = owner.flat[span.at : span.at + size_bytes]
        self.address = owner.address + span.at

    def told(self, start: int, stop: int) -> str:
        at = self.span.start
        names = [
            entry.name
            for entry in self.span.entries
            if entry.start - at < stop and entry.stop - at > start
        ]
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"bytes {at + start} to {at + stop} of the shard, tensor {names[0]}{more},"


class StagedGroup:
    """The allocation of one group, and the group's tensors once all bytes have arrived."""

    def __init__(self, group: StagingGroup, device: torch.device) -> None:
        self._group = group
        if group.single:  # allocated in the tensor's own dtype and shape, so `tensors` cuts nothing
            self._tensor = fresh(group.spans[0].entries[0], device)
            self.flat = self._tensor.reshape(-1).view(torch.uint8)
        else:
            self.flat = torch.empty(group.size_bytes, dtype=torch.uint8, device=device)
        self.address = self.flat.data_ptr()
        self.size_bytes = group.size_bytes
        self.left_bytes = sum(span.stop - span.start for span in group.spans)
        self.stop = group.spans[-1].stop
        """Where the group's last byte ends in the shard."""

    def tensors(self) -> list[Handed]:
        """The group's tensors. Once this object is dropped, they alone hold the memory."""
        if self._group.single:
            return [(self._group.spans[0].entries[0], self._tensor)]
        return [item for span in self._group.spans for item in split(self.flat[span.at :], span)]


def split(flat: torch.Tensor, span: GroupSpan) -> Iterator[Handed]:
    """The tensors of a span; the first byte of `flat` is that of the span.

    One call makes all neighbouring tensors that differ at most in the first dimension. There may be
    thousands, and making a view of each would take longer than copying its bytes.
    """
    forms = [torch_form(entry.dtype, entry.shape) for entry in span.entries]
    first, at = 0, 0
    while first < len(forms):
        dtype, shape = forms[first]
        last = first + 1
        while last < len(forms) and forms[last][0] is dtype and forms[last][1][1:] == shape[1:]:
            last += 1
        entries = span.entries[first:last]
        stop = at + entries[-1].stop - entries[0].start
        shapes = [form[1] for form in forms[first:last]]
        yield from zip(entries, _cut(flat[at:stop].view(dtype), shapes), strict=True)
        first, at = last, stop


def _cut(flat: torch.Tensor, shapes: list[tuple[int, ...]]) -> Sequence[torch.Tensor]:
    """Tensors of these shapes, one after the other in `flat`; only first dimensions may differ."""
    if not (flat.numel() and all(shapes)):  # scalars, and tensors whose rows are empty
        parts = torch.unsafe_split_with_sizes(flat, [math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    # not `split`: autograd forbids writing to views that came from one call
    rows = flat.view(-1, *shapes[0][1:])
    cut: Sequence[torch.Tensor] = torch.unsafe_split_with_sizes(rows, [one[0] for one in shapes])
    return cut
