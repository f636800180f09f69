"""Random chains of views with an operator at their end give the same as on the stored tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.streamer_client.tensors.test_lazy import Store, named_bytes, same, store

from streamer_client.tensors.lazy import LazyTensor

View = Callable[[torch.Tensor], torch.Tensor]


@st.composite
def chains(draw: st.DrawFn, most: int = 6) -> tuple[torch.Tensor, list[View]]:
    """A stored tensor, and views that can be taken one after the other."""
    shape = draw(st.lists(st.integers(1, 6), max_size=4))
    tensor = seen = store(*shape).tensor
    views: list[View] = []
    for _ in range(draw(st.integers(0, most))):
        view = draw(next_view(seen))
        views.append(view)
        seen = view(seen)
    return tensor, views


@st.composite
def next_view(draw: st.DrawFn, seen: torch.Tensor) -> View:
    """A view that can be taken of a tensor of this form."""
    dims = seen.dim()
    kind = draw(st.sampled_from(["unsqueeze", "expand", "flatten", "slice", "transpose", "part"]))
    times = draw(st.integers(1, 3))
    if kind == "expand":
        return lambda x: x.unsqueeze(0).expand(times, *x.shape)
    if kind == "unsqueeze" or not dims:
        return lambda x: x.unsqueeze(0)
    dim, other = draw(st.integers(0, dims - 1)), draw(st.integers(0, dims - 1))
    start = draw(st.integers(0, seen.shape[dim]))
    stop = draw(st.integers(start, seen.shape[dim]))
    if kind == "flatten" and seen.is_contiguous():
        return lambda x: x.flatten()
    if kind == "slice":
        index = (slice(None),) * dim + (slice(start, stop, times),)
        return lambda x: x[index]
    if kind == "part" and start < seen.shape[dim]:
        return lambda x: x.select(dim, start)
    return lambda x: x.transpose(dim, other)


def turned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(list(range(tensor.dim()))[::-1])


ENDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "copy": lambda x: torch.zeros(x.shape).copy_(x),
    "strided copy": lambda x: (
        torch.zeros(x.shape[::-1]).permute(list(range(x.dim()))[::-1]).copy_(x)
    ),
    "sum": lambda x: x.sum(),
    "clone": lambda x: x.clone(),
    "double": lambda x: x.double(),
    "list": lambda x: x.tolist(),
    "reshape": lambda x: x.reshape(-1),
}


@given(chain=chains(), end=st.sampled_from(sorted(ENDS)))
def test_random_views_and_an_operator(chain: tuple[torch.Tensor, list[View]], end: str) -> None:
    tensor, views = chain
    stored = Store(tensor)

    def through(seen: torch.Tensor) -> torch.Tensor:
        for view in views:
            seen = view(seen)
        return seen

    found = through(stored.lazy())
    assert isinstance(found, LazyTensor)
    assert not stored.cuts
    assert same(ENDS[end](found), ENDS[end](through(tensor)))
    assert stored.fetched <= named_bytes(through, stored)
    if found.numel():
        assert stored.fetched == named_bytes(through, stored)
    assert sum(cut.size_bytes for cut in stored.cuts) == len(stored.fetched)
