"""The operations of vLLM's loaders on weights, and those of a hostile loader, give right results at
any cost.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from tests.unit.streamer_client.tensors.test_lazy import Store, same, store
from torch import nn
from torch.utils import dlpack
from torch.utils._python_dispatch import TorchDispatchMode

from streamer_client.tensors.lazy import LazyTensor, ordinary
from streamer_client.tensors.stored import MOST_TIMES


def _filled(size: tuple[int, ...], fill: Callable[[torch.Tensor], Any]) -> torch.Tensor:
    parameter = nn.Parameter(torch.zeros(size), requires_grad=False)
    fill(parameter)
    return parameter.data


LOADERS: dict[str, Callable[[torch.Tensor], Any]] = {
    "by an index": lambda x: _filled((3, 4, 6), lambda to: to.data.__setitem__(1, x)),
    "by an ellipsis": lambda x: _filled((4, 6), lambda to: to.data.__setitem__(..., x)),
    "by a mask": lambda x: _filled(
        (2, 6), lambda to: to.data.__setitem__(torch.tensor([False, True]), x[1:2])
    ),
    "one element": lambda x: _filled((3,), lambda to: to.data.__setitem__(2, x[1, 2])),
    "one element into one": lambda x: _filled((1,), lambda to: to.data.copy_(x[3, 3])),
    "a row into all": lambda x: _filled((4, 6), lambda to: to.data.copy_(x[2])),
    "filled": lambda x: _filled((4,), lambda to: to.data.fill_(x[0, 5])),
    "into an expert, transposed": lambda x: _filled((2, 6, 4), lambda to: to.data[1].copy_(x.t())),
    "chunks": lambda x: [one.clone() for one in x.chunk(2, dim=0)],
    "default loader": lambda x: _filled((24,), lambda to: to.data.copy_(x.view(to.shape))),
    "gathered": lambda x: torch.index_select(x, 1, torch.tensor([5, 0])),
    "padded": lambda x: nn.functional.pad(x, (0, 2, 1, 0)),
    "repeated": lambda x: x.repeat_interleave(2, dim=0),
    "negated exponent": lambda x: -torch.exp(x.float() / 10),
    "fused heads": lambda x: x.view(2, 2, 6).transpose(0, 1).reshape(4, 6),
    "stacked": lambda x: torch.stack([x, x]).unbind(1)[2],
    "summed in a loop": lambda x: sum(list(x)),
    "flipped": lambda x: x.flip(0),
    "rolled": lambda x: torch.roll(x, 1, 0),
    "einsum": lambda x: torch.einsum("ij,kj->ik", x, x),
    "another dtype of the same bytes": lambda x: x.view(torch.int32) + 0,
    "a type": lambda x: (x.type(), x.type(torch.half)),
    "legacy constructor": lambda x: torch.Tensor(x).clone(),
    "shallow copy": copy.copy,
    "tensor of it": lambda x: torch.asarray(x).add(1),
    "to the host": lambda x: x.cpu().numpy().sum(),
    "compared": lambda x: torch.allclose(x, x + 1e-9),
    "as a scale": lambda x: torch.ones(4, 6).mul_(x).div(x.abs().max()),
    "times a parameter": lambda x: (nn.Parameter(torch.ones(4, 6)) * x).sum().detach(),
}


def _complex(weight: torch.Tensor) -> torch.Tensor:
    return weight.view(torch.complex64)


def _loaded(module: nn.Linear, weight: torch.Tensor, *, assign: bool) -> torch.Tensor:
    module.load_state_dict({"weight": weight}, assign=assign)
    return module.weight.detach() + 0


LOADERS |= {
    "read twice as wide": lambda x: x.as_strided((4, 4), (2, 1), 3) + 0,
    "windows": lambda x: x.unfold(1, 3, 1) + 0,
    "without waiting": lambda x: _filled((4, 6), lambda to: to.data.copy_(x, non_blocking=True)),
    "into every other place": lambda x: _filled((8, 12), lambda to: to.data[::2, ::2].copy_(x)),
    "rows by their numbers": lambda x: _filled(
        (8, 6), lambda to: to.data.index_copy_(0, torch.tensor([7, 1, 3, 5]), x)
    ),
    "scattered": lambda x: _filled(
        (4, 6), lambda to: to.data.scatter_(1, torch.zeros(4, 1, dtype=torch.long), x)
    ),
    "where a mask says": lambda x: _filled(
        (4, 6), lambda to: to.data.masked_scatter_(torch.ones(4, 6, dtype=torch.bool), x)
    ),
    "concatenated into a place": lambda x: _filled(
        (8, 6), lambda to: torch.cat([x, x], out=to.data)
    ),
    "over itself": lambda x: (x[0:2].copy_(x[2:4]), x + 0)[1],
    "conjugated and turned": lambda x: _complex(x).H.clone(),
    "an imaginary part": lambda x: _complex(x)[1:].imag + 0,
    "packed numbers of four bits": lambda x: (
        x.view(torch.float4_e2m1fn_x2)[1:].view(torch.uint8) + 0
    ),
    "scales of eight bits": lambda x: (
        x.view(torch.float8_e8m0fnu)[:, 3:].contiguous().view(torch.uint8)
    ),
    "rows of odd bytes": lambda x: x.view(torch.uint8).flatten()[1:-1].view(2, -1)[:, 1:] + 0,
    "mapped over rows": torch.func.vmap(lambda row: row[1:3] * 2),
    "made functional": torch.func.functionalize(lambda one: one[1:].clone().add_(1)),
    "by a module": lambda x: torch.func.functional_call(
        nn.Linear(6, 4, bias=False), {"weight": x}, (torch.ones(2, 6),)
    ).detach(),
    "a module's state": lambda x: _loaded(nn.Linear(6, 4, bias=False), x, assign=False),
    "a module's assigned state": lambda x: _loaded(
        nn.Linear(6, 4, bias=False, device="meta"), x, assign=True
    ),
    "sparse": lambda x: x.to_sparse().to_dense(),
    "a plain class": lambda x: x.as_subclass(torch.Tensor) + 0,
    "of its memory": lambda x: torch.empty(0).set_(x.untyped_storage(), 6, (2, 3), (6, 1)) + 0,
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("loader", LOADERS.values(), ids=LOADERS)
def test_a_loader_gets_what_the_stored_tensor_gives(
    loader: Callable[[torch.Tensor], Any], mode: Callable[[], Any]
) -> None:
    stored = store(4, 6)
    with mode():
        found, expected = loader(stored.lazy()), loader(stored.tensor)
    assert same(found, expected)


def test_a_default_dtype_and_device_change_nothing() -> None:
    stored = store(4, 6, dtype=torch.float16)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            weight = stored.lazy()
            part = weight[1:3]
            found = ordinary(part)
    finally:
        torch.set_default_dtype(before)
    assert found.device.type == "cpu"
    assert torch.equal(found, stored.tensor[1:3])


def test_under_deterministic_algorithms() -> None:
    stored = store(4, 6)
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert torch.equal(torch.zeros(4, 6).copy_(stored.lazy()), stored.tensor)
    finally:
        torch.use_deterministic_algorithms(mode=False)


IN_PLACE: dict[str, Callable[[torch.Tensor], Any]] = {
    "t_": lambda x: x.t_(),
    "transpose_": lambda x: x.transpose_(0, 1),
    "unsqueeze_": lambda x: x.unsqueeze_(1),
    "squeeze_": lambda x: x.unsqueeze_(0).squeeze_(0),
    "as_strided_": lambda x: x.as_strided_((2, 3), (6, 1), 7),
    "detach_": lambda x: x.detach_(),
}


@pytest.mark.parametrize("turn", IN_PLACE.values(), ids=IN_PLACE)
def test_a_tensor_is_turned_in_place(turn: Callable[[torch.Tensor], Any]) -> None:
    stored = store(4, 6)
    weight, expected = stored.lazy(), stored.tensor.clone()
    view = weight[1:]
    assert turn(weight) is weight
    turn(expected)
    assert not stored.cuts
    assert (weight.shape, weight.stride()) == (expected.shape, expected.stride())
    assert torch.equal(ordinary(weight), expected)
    assert torch.equal(ordinary(weight[1:]), expected[1:])
    assert torch.equal(ordinary(view), stored.tensor[1:])


@pytest.mark.parametrize("change", [lambda x: x.resize_(2, 3), lambda x: x.set_(torch.zeros(3))])
def test_what_would_change_its_memory_is_refused(change: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(NotImplementedError, match=r"clone\(\)"):
        change(store(4, 6).lazy())


@pytest.mark.parametrize("shape", [(4, 6), (3, 2)])
def test_setting_data_replaces_the_content_of_a_lazy_weight(shape: tuple[int, int]) -> None:
    other = store(*shape).tensor.t() + 100
    for value in (other, Store(other.contiguous()).lazy()):
        weight = store(4, 6).lazy()
        weight.data = value
        assert (weight.shape, weight.dtype) == (other.shape, other.dtype)
        assert torch.equal(ordinary(weight), other)
        assert torch.equal(weight[1:] + 0, other[1:])
    weight = store(4, 6).lazy()
    weight.data = other
    weight.add_(1)
    # Setting `data` shares the memory of `other`, as with ordinary tensors.
    assert float(other[0, 0]) == 101


FORM_ALONE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros_like": lambda x: torch.zeros_like(x.t()),
    "empty_like": lambda x: torch.empty_like(x).fill_(3),
    "new_zeros": lambda x: x.new_zeros(2, 2),
    "new_full": lambda x: x.new_full((2,), 7),
    "new_tensor": lambda x: x.new_tensor([1, 2]),
    "full_like": lambda x: torch.full_like(x, 2, dtype=torch.int32),
    "to meta": lambda x: x.t().to("meta"),
}


@pytest.mark.parametrize("made", FORM_ALONE.values(), ids=FORM_ALONE)
def test_what_is_made_of_its_form_alone_fetches_nothing(
    made: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    stored = store(4, 6)
    found, expected = made(stored.lazy()), made(stored.tensor)
    assert not stored.cuts
    assert (found.shape, found.stride(), found.dtype, found.device) == (
        expected.shape,
        expected.stride(),
        expected.dtype,
        expected.device,
    )
    if expected.device.type != "meta":
        assert torch.equal(found, expected)


class TestMemory:
    """A tensor that refers to the memory of a lazy tensor goes on doing so for as long
    as it lives.
    """

    @pytest.mark.parametrize(
        "memory",
        [
            lambda x: torch.from_numpy(x.numpy()),
            torch.utils.dlpack.from_dlpack,
            lambda x: torch.empty(0).set_(
                x.untyped_storage(), x.storage_offset(), x.shape, x.stride()
            ),
        ],
        ids=["numpy", "dlpack", "storage"],
    )
    def test_what_is_written_there_is_seen(self, memory: Callable[[torch.Tensor], Any]) -> None:
        weight = store(4, 6).lazy()
        row = weight[1]
        memory(row).fill_(9)
        assert torch.equal(ordinary(weight)[1], torch.full((6,), 9.0))
        assert float(weight[0, 1]) == 1

    def test_an_address_stays(self) -> None:
        weight = store(4, 6).lazy()
        address = weight.data_ptr()
        assert address
        assert weight[2].data_ptr() == address + 2 * 6 * 4
        assert ordinary(weight).data_ptr() == address


def test_a_loader_that_converts_again_and_again_fetches_a_few_times() -> None:
    stored = store(8, 8)
    weight = stored.lazy()
    for row in range(8):
        assert torch.equal(weight.double()[row], stored.tensor[row].double())
    assert sum(cut.size_bytes for cut in stored.cuts) == (MOST_TIMES + 1) * stored.tensor.nbytes


class CopyCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """vLLM's layerwise reload counts the elements that a loader copies in this way."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            assert args[0].numel() == args[1].numel()
            self.copied += args[0].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_copies_are_counted_once(device: str) -> None:
    stored = store(4, 6)
    target = torch.zeros(2, 6, device=device)
    with CopyCounter() as counter:
        target.copy_(stored.lazy()[1:3])
    assert counter.copied == 12
    assert bool(stored.cuts) == (device == "cpu")


def test_a_meta_tensor_of_another_shape_is_refused_as_ever() -> None:
    with pytest.raises(RuntimeError, match="must match the size"):
        torch.empty(4, 5, device="meta").copy_(store(4, 6).lazy())


def test_several_threads_write_and_read() -> None:
    stored = store(16, 64)
    weight, target = stored.lazy(), torch.zeros(16, 64)

    def move(row: int) -> None:
        target[row].copy_(weight[row])
        weight[row].add_(1)

    threads = [threading.Thread(target=move, args=(row,)) for row in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(target, stored.tensor)
    assert torch.equal(ordinary(weight), stored.tensor + 1)


def test_it_is_no_ordinary_tensor_by_type() -> None:
    weight: torch.Tensor = store(2).lazy()
    assert torch.is_tensor(weight)
    assert isinstance(weight, torch.Tensor)
    assert not isinstance(weight, nn.Parameter)
    assert type(weight) is LazyTensor


def test_what_torch_never_asks_about_is_refused_and_does_no_harm() -> None:
    """`to_dlpack` needs the memory itself, which a lazy tensor does not have."""
    stored = store(4, 6)
    with pytest.raises(RuntimeError, match="Cannot access data pointer"):
        cast("Any", dlpack).to_dlpack(stored.lazy())
    assert torch.equal(dlpack.from_dlpack(stored.lazy()), stored.tensor)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_functions_of_python_write_to_what_all_views_see(grad: Callable[[], Any]) -> None:
    stored = store(4, 6)
    weight, plain = stored.lazy(), stored.tensor.clone()
    with grad():
        view = weight[1:]
        weight.apply_(lambda element: element + 1)
        plain.apply_(lambda element: element + 1)
        weight.map_(plain, lambda element, other: element + other)
        plain.map_(plain, lambda element, other: element + other)
        plain[2:].map_(view[1:], lambda element, other: element - other)
    assert torch.equal(ordinary(view[:1]), plain[1:2])
    assert not plain[2:].any()
