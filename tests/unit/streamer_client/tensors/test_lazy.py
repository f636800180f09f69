"""torch does the same with a lazy tensor as with the stored one, and no further bytes
are fetched.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from streamer_client.copy.cut import Cut, Dimension
from streamer_client.tensors.lazy import LazyTensor, lazy, ordinary
from streamer_client.tensors.stored import Stored

CPU = torch.device("cpu")


class Store:
    """A stored tensor in memory, with an account of the rows that were fetched of it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.bytes = tensor.contiguous().reshape(-1).view(torch.uint8)
        self.cuts: list[Cut] = []

    def fetch(self, cut: Cut) -> torch.Tensor:
        self.cuts.append(cut)
        rows = [self.bytes[at : at + cut.row_bytes] for at in cut.starts()]
        return torch.cat(rows) if rows else torch.empty(0, dtype=torch.uint8)

    def lazy(self) -> LazyTensor:
        stored = Stored(self.fetch, CPU, self.tensor.nbytes)
        return lazy(self.tensor.shape, self.tensor.dtype, stored)

    @property
    def fetched(self) -> set[int]:
        return {
            place
            for cut in self.cuts
            for at in cut.starts()
            for place in range(at, at + cut.row_bytes)
        }


def store(*shape: int, dtype: torch.dtype = torch.float32) -> Store:
    count = int(np.prod(shape))
    return Store(torch.arange(count, dtype=torch.float32).reshape(shape).to(dtype))


VIEWS: dict[str, Callable[[torch.Tensor], Any]] = {
    "alias": torch.ops.aten.alias.default,
    "as_strided": lambda x: x.as_strided((3, 2), (1, 6), 2),
    "chunk": lambda x: x.chunk(2, 1)[1],
    "detach": lambda x: x.detach(),
    "diagonal": lambda x: x.diagonal(),
    "data": lambda x: x.data,
    "expand": lambda x: x[0:1].expand(3, 6),
    "flatten": lambda x: x.flatten(),
    "iterating": lambda x: list(x)[2],
    "narrow": lambda x: x.narrow(0, 1, 2),
    "select": lambda x: x[1],
    "slice with step": lambda x: x[::2, 1::2],
    "split": lambda x: torch.split(x, [1, 3])[1],
    "squeeze": lambda x: x.unsqueeze(0).squeeze(0),
    "same device and dtype": lambda x: x.to("cpu").to(torch.float32),
    "t": lambda x: x.t(),
    "unbind": lambda x: x.unbind(1)[3],
    "unsafe split": lambda x: x.unsafe_split(2)[1],
    "view": lambda x: x.view(2, 2, 6)[0],
    "view of another dtype": lambda x: x[1:3].view(torch.int16),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_stays_lazy_and_names_its_own_bytes(view: Callable[[torch.Tensor], Any]) -> None:
    stored = store(4, 6)
    found = view(stored.lazy())
    assert isinstance(found, LazyTensor)
    assert not stored.cuts
    expected = view(stored.tensor)
    assert (found.shape, found.dtype, found.stride()) == (
        expected.shape,
        expected.dtype,
        expected.stride(),
    )
    assert torch.equal(ordinary(found), expected)
    assert stored.fetched == named_bytes(view, stored)


def named_bytes(view: Callable[[torch.Tensor], Any], stored: Store) -> set[int]:
    """The bytes whose change would change the view, found without using cuts."""
    count = stored.tensor.numel()
    numbers = torch.arange(count, dtype=torch.float32).reshape(stored.tensor.shape)
    seen = view(numbers)
    if seen.dtype != torch.float32:
        seen = view(numbers).contiguous().view(torch.float32)
    item = stored.tensor.element_size()
    return {
        int(number) * item + byte for number in seen.reshape(-1).tolist() for byte in range(item)
    }


def _written(fill: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    target = torch.zeros(4, 6)
    fill(target)
    return target


def saved(tensor: torch.Tensor) -> torch.Tensor:
    file = io.BytesIO()
    torch.save(tensor, file)
    file.seek(0)
    loaded: torch.Tensor = torch.load(file)
    return loaded


OPERATORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "addition": lambda x: x + 1,
    "into a parameter": lambda x: _written(lambda to: to.copy_(x)),
    "into a strided place": lambda x: _written(lambda to: to.t().copy_(x.t())),
    "into another dtype": lambda x: torch.zeros(4, 6, dtype=torch.bfloat16).copy_(x),
    "into a slice": lambda x: _written(lambda to: to.__setitem__((slice(1, 3),), x[1:3])),
    "cat": lambda x: torch.cat([x, x]),
    "stack of views": lambda x: torch.stack([x[0], x[2]]),
    "foreach": lambda x: torch._foreach_add([x, x], 1),
    "index": lambda x: x[torch.tensor([0, 2])],
    "contiguous": lambda x: x.t().contiguous(),
    "reshape": lambda x: x.t().reshape(-1),
    "half": lambda x: x.half(),
    "copied": lambda x: x.to("cpu", copy=True),
    "clone": lambda x: x.clone(),
    "equal": lambda x: torch.equal(x, torch.zeros(4, 6)),
    "item": lambda x: x[1, 2].item(),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "asarray": lambda x: torch.from_numpy(np.asarray(x)),
    "dlpack": lambda x: torch.utils.dlpack.from_dlpack(x.__dlpack__()),
    "deepcopy": copy.deepcopy,
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),  # noqa: S301  our own bytes
    "save": saved,
    "storage": lambda x: list(x.untyped_storage()),
    "complex": lambda x: torch.complex(x, x).conj().imag,
    "bool": lambda x: bool(x[1, 1]),
    "format": lambda x: f"{x.sum():.1f}",
    "max": lambda x: x.max(dim=1),
    "where": lambda x: torch.where(x > 3, x, 0),
    "linear": lambda x: torch.nn.functional.linear(x, x),
    "set": lambda x: torch.ops.aten.set_.source_Tensor(torch.empty(0), x),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_an_operator_gets_an_ordinary_tensor(
    operator: Callable[[torch.Tensor], Any], inference: bool
) -> None:
    stored = store(4, 6)
    with torch.inference_mode(mode=inference):
        found, expected = operator(stored.lazy()), operator(stored.tensor)
    assert same(found, expected)
    assert not any(isinstance(one, LazyTensor) for one in leaves(found))


def leaves(value: Any) -> list[Any]:
    return torch.utils._pytree.tree_leaves(value)


def same(found: Any, expected: Any) -> bool:
    pairs = list(zip(leaves(found), leaves(expected), strict=True))
    return all(
        torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        for one, other in pairs
    )


def test_a_copy_of_a_slice_fetches_that_slice_alone() -> None:
    stored = store(8, 8)
    target = torch.zeros(4, 3)
    target.copy_(stored.lazy()[4:, 2:5])
    assert torch.equal(target, stored.tensor[4:, 2:5])
    assert stored.cuts == [Cut((4 * 8 + 2) * 4, 3 * 4, (Dimension(4, 8 * 4),))]


def test_a_copy_into_a_meta_tensor_fetches_nothing() -> None:
    stored = store(4, 6)
    target = torch.empty(4, 6, device="meta")
    assert target.copy_(stored.lazy()) is target
    assert not stored.cuts


def test_many_slices_into_many_parameters_at_once() -> None:
    stored = store(4, 6)
    weight = stored.lazy()
    targets = [torch.zeros(2, 6), torch.zeros(2, 6)]
    torch._foreach_copy_(targets, [weight[:2], weight[2:]])
    assert torch.equal(torch.cat(targets), stored.tensor)


def test_nothing_is_fetched_for_questions_about_its_form() -> None:
    stored = store(4, 6, dtype=torch.bfloat16)
    weight = stored.lazy()
    assert weight.shape == (4, 6)
    assert weight.stride(0) == 6
    assert weight.numel() * weight.element_size() == 48
    assert weight.device == CPU
    assert weight.is_contiguous()
    assert not weight.t().is_contiguous()
    assert "not fetched" in repr(weight)
    assert len(weight) == 4
    assert not stored.cuts


class TestWriting:
    """Writing to a lazy tensor shows in its views, as with any tensor."""

    def test_the_tensor_itself_and_views_made_before_and_after(self) -> None:
        stored = store(4, 6)
        expected = stored.tensor.clone()
        weight = stored.lazy()
        before = weight[1:3]
        for tensor in (weight, expected):
            assert tensor.add_(10) is tensor
        assert torch.equal(ordinary(before), expected[1:3])
        assert torch.equal(ordinary(weight.t()), expected.t())

    def test_a_view(self) -> None:
        stored = store(4, 6)
        weight, expected = stored.lazy(), stored.tensor.clone()
        for tensor in (weight, expected):
            tensor[2, 1:4] = -1
        assert torch.equal(ordinary(weight), expected)
        assert torch.equal(stored.tensor, store(4, 6).tensor)

    def test_an_in_place_operator_on_a_view_of_another_dtype(self) -> None:
        stored = store(3, 1, dtype=torch.bfloat16)
        weight, expected = stored.lazy(), stored.tensor.clone()
        for tensor in (weight, expected):
            tensor[:2].flatten().view(torch.int32).add_(1)
        assert torch.equal(ordinary(weight), expected)

    def test_an_out_argument(self) -> None:
        stored = store(4, 6)
        weight = stored.lazy()
        torch.ones(4, 6, out=weight)
        assert torch.equal(ordinary(weight), torch.ones(4, 6))


@pytest.mark.parametrize("made_inside", [False, True])
def test_inference_mode_entered_or_left_between_making_and_viewing(made_inside: bool) -> None:
    stored = store(4, 6)
    with torch.inference_mode(mode=made_inside):
        weight = stored.lazy()
        half = weight[:2]
    with torch.inference_mode(mode=not made_inside):
        quarter = half[:, :3].t()
        target = torch.zeros(3, 2).copy_(quarter)
    assert torch.equal(target, stored.tensor[:2, :3].t())


def test_empty_and_scalar_tensors() -> None:
    empty = Store(torch.empty(0, 5))
    assert torch.equal(ordinary(empty.lazy()), empty.tensor)
    assert torch.equal(torch.empty(0, 5).copy_(empty.lazy()), empty.tensor)
    scalar = Store(torch.tensor(3.5))
    assert torch.equal(ordinary(scalar.lazy()), scalar.tensor)
    assert float(scalar.lazy()) == 3.5


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float8_e4m3fn]
)
def test_every_kind_of_element(dtype: torch.dtype) -> None:
    stored = store(4, 6, dtype=dtype)
    found = ordinary(stored.lazy()[1:, ::2])
    assert found.dtype == dtype
    assert torch.equal(
        found.view(torch.uint8), stored.tensor[1:, ::2].contiguous().view(torch.uint8)
    )


def test_views_that_overlap_take_the_whole() -> None:
    stored = store(12)
    assert torch.equal(ordinary(stored.lazy().unfold(0, 4, 2)), stored.tensor.unfold(0, 4, 2))
