"""Which targets share memory: tied parameters, or views of one tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def sharing_groups(targets: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """A group number for each name whose memory overlaps another's, and for no others.

    Strided tensors whose extents interleave count as overlapping: wrong only on the safe side.
    """
    by_device: dict[torch.device, list[tuple[int, int, str]]] = {}
    for name, tensor in targets.items():
        start, stop = _extent(tensor)
        if start < stop:
            by_device.setdefault(tensor.device, []).append((start, stop, name))
    groups: dict[str, int] = {}
    group = 0
    for extents in by_device.values():
        extents.sort()
        stop, previous = 0, ""
        for start, end, name in extents:
            if start < stop:
                groups[previous] = groups[name] = group
                stop = max(stop, end)
            else:
                stop, group = end, group + 1
            previous = name
    return groups


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses `(start, stop)` that the tensor's elements lie between."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()
