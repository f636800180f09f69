"""Which targets share memory: tied parameters, or views of one tensor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch


def sharing_groups(targets: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """A group number for each name whose memory overlaps another's, and for no others.

    Strided tensors whose extents interleave count as overlapping: wrong only on the safe side.
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
    """Add those of one device. In lists of numbers: there may be thousands that share nothing."""
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
    """From the tensor's first element in memory to its last."""
    if tensor.is_contiguous():
        return tensor.nbytes
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size() if tensor.numel() else 0
