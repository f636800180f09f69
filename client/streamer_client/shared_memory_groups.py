"""Which targets share memory: tied parameters, or views of one tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def sharing_groups(targets: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """A group number for each name whose memory overlaps another's, and for no others.

    Strided tensors whose extents interleave count as overlapping: wrong only on the safe side.
    """
    extents = sorted(
        (str(tensor.device), *_extent(tensor), name)
        for name, tensor in targets.items()
        if tensor.numel()
    )
    groups: dict[str, int] = {}
    device, stop, previous, group = "", 0, "", 0
    for where, start, end, name in extents:
        if where == device and start < stop:
            groups[previous] = groups[name] = group
            stop = max(stop, end)
        else:
            device, stop, group = where, end, group + 1
        previous = name
    return groups


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses `(start, stop)` that the tensor's elements lie between."""
    start = tensor.data_ptr()
    if tensor.is_contiguous():
        return start, start + tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (last + 1) * tensor.element_size()
