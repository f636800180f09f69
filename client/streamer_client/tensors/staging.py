"""Memory for tensors that are handed out as private copies, and the tensors made of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from streamer_client.contract.catalog import TensorEntry
from streamer_client.copy.destination import Contiguous, fresh
from streamer_client.copy.dtypes import torch_form
from streamer_client.tensors.staging_groups import GroupSpan, StagingGroup

Handed = tuple[TensorEntry, torch.Tensor]


class Staged(Contiguous):
    """One span's memory: a `Target` for those who copy."""

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
    """One allocation, and its tensors once all bytes are there."""

    def __init__(self, group: StagingGroup, device: torch.device) -> None:
        self._group = group
        if group.single:  # as the tensor it is
            self._tensor = fresh(group.spans[0].entries[0], device)
            self.flat = self._tensor.reshape(-1).view(torch.uint8)
        else:
            self.flat = torch.empty(group.size_bytes, dtype=torch.uint8, device=device)
        self.address = self.flat.data_ptr()
        self.size_bytes = group.size_bytes
        self.left_bytes = sum(span.stop - span.start for span in group.spans)
        self.stop = group.spans[-1].stop
        """Where its last byte ends in the shard."""

    def tensors(self) -> list[Handed]:
        """The tensors, which alone keep the memory from now on."""
        if self._group.single:
            return [(self._group.spans[0].entries[0], self._tensor)]
        return [item for span in self._group.spans for item in split(self.flat[span.at :], span)]


def split(flat: torch.Tensor, span: GroupSpan) -> Iterator[Handed]:
    """A span's tensors, whose first byte is that of `flat`.

    Neighbours that differ in the first dimension at most are cut by one call: there may be
    thousands, and a view of each would take longer than copying its bytes.
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
    """Tensors that lie in `flat` one after the other; only their first dimensions differ."""
    if not (flat.numel() and all(shapes)):  # scalars, and empty rows
        parts = torch.unsafe_split_with_sizes(flat, [math.prod(shape) for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    # not `split`: autograd forbids to write to views that came from one call
    rows = flat.view(-1, *shapes[0][1:])
    cut: Sequence[torch.Tensor] = torch.unsafe_split_with_sizes(rows, [one[0] for one in shapes])
    return cut
