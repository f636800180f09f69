"""No lazy tensor is left in a model, however a loader assigned it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.unit.streamer_client.tensors.test_lazy import Store, store
from torch import nn

from streamer_client.tensors.lazy import LazyTensor
from streamer_client.tensors.lazy_assignments import no_lazy_left
from streamer_client.tensors.stored import any_alive


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4, bias=False)
        self.register_buffer("scale", torch.zeros(4, 6))
        self.other: Any = None


def check(model: nn.Module, found: torch.Tensor, stored: Store) -> None:
    assert not isinstance(found, LazyTensor)
    assert torch.equal(found, stored.tensor)
    for one in (*model.parameters(), *model.buffers()):
        assert not isinstance(one, LazyTensor)


def test_data_of_a_parameter_is_ordinary_at_once() -> None:
    model, stored = Model(), store(4, 6)
    with no_lazy_left(model):
        model.linear.weight.data = stored.lazy()
        assert torch.equal(model.linear.weight + 0, stored.tensor)
    check(model, model.linear.weight, stored)
    assert isinstance(model.linear.weight, nn.Parameter)


class Marked(nn.Parameter):
    """A parameter like vLLM's, which does not take part in torch's calls to subclasses."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def test_data_of_a_parameter_of_another_class() -> None:
    model, stored = Model(), store(4, 6)
    model.linear.weight = Marked(torch.zeros(4, 6))
    with no_lazy_left(model):
        model.linear.weight.data = stored.lazy()
    check(model, model.linear.weight, stored)
    assert type(model.linear.weight) is Marked


def test_data_set_within_another_mode() -> None:
    model, stored = Model(), store(4, 6)
    with no_lazy_left(model), torch.device("cpu"), torch.inference_mode():
        model.linear.weight.data = stored.lazy()[:]
    check(model, model.linear.weight, stored)


def test_tensors_that_are_swapped() -> None:
    model, stored = Model(), store(4, 6)
    swap: Any = torch.utils.swap_tensors  # torch declares no types for it
    with no_lazy_left(model):
        swap(model.scale, stored.lazy())
    check(model, model.get_buffer("scale"), stored)


def test_a_parameter_made_of_a_lazy_weight_is_one() -> None:
    model, stored = Model(), store(4, 6)
    with no_lazy_left(model):
        weight = nn.Parameter(stored.lazy()[:], requires_grad=False)
        weight.output_dim = 1  # type: ignore[attr-defined]  # as vLLM marks its parameters
        model.linear.weight = weight
        assert type(model.linear.weight) is nn.Parameter
    check(model, model.linear.weight, stored)
    assert model.linear.weight.output_dim == 1  # type: ignore[attr-defined]  # as above


def test_a_registered_and_an_assigned_buffer() -> None:
    model, stored = Model(), store(4, 6)
    with no_lazy_left(model):
        model.register_buffer("bias", stored.lazy())
        model.scale = stored.lazy()
        assert not isinstance(model.scale, LazyTensor)
    check(model, model.scale, stored)
    check(model, model.get_buffer("bias"), stored)


@pytest.mark.parametrize("wrap", ["plain", "list", "tuple", "dict", "parameter"])
def test_attributes_and_what_they_hold_are_swept(wrap: str) -> None:
    model, stored = Model(), store(4, 6)
    weight = stored.lazy()
    with no_lazy_left(model):
        vars(model)["other"] = {
            "plain": weight,
            "list": [1, [weight]],
            "tuple": (weight, 2),
            "dict": {"a": {"b": weight}},
            "parameter": nn.Parameter(weight, requires_grad=False),
        }[wrap]
    (found,) = (
        one for one in torch.utils._pytree.tree_leaves(model.other) if isinstance(one, torch.Tensor)
    )
    check(model, found, stored)
    assert isinstance(found, nn.Parameter) == (wrap == "parameter")


def test_hooks_and_mode_are_gone_after_an_error() -> None:
    model, stored = Model(), store(4, 6)
    with pytest.raises(ValueError, match="broken"), no_lazy_left(model):
        raise ValueError("broken")
    module = nn.Module()
    module.register_buffer("kept", stored.lazy())
    assert isinstance(module.kept, LazyTensor)


def test_other_tensors_stay_the_objects_that_they_are() -> None:
    model = Model()
    weight, values = model.linear.weight, [torch.zeros(2)]
    model.other = values
    with no_lazy_left(model):
        model.linear.weight.data = torch.ones(4, 6)
    assert model.linear.weight is weight
    assert model.other is values


def test_a_lazy_tensor_elsewhere_is_left_alone() -> None:
    kept = store(2).lazy()
    with no_lazy_left(Model()):
        pass
    assert isinstance(kept, LazyTensor)


def test_modules_are_looked_through_only_while_there_are_lazy_tensors() -> None:
    class Counted(Model):
        looked = 0

        def modules(self, remove_duplicate: bool = True) -> Iterator[nn.Module]:
            self.looked += 1
            return super().modules(remove_duplicate)

    model, stored = Counted(), store(4, 6)
    gc.collect()
    assert not any_alive()
    with no_lazy_left(model):
        model.linear.weight.data.copy_(stored.lazy())
    assert model.looked == 0
    with no_lazy_left(model):
        model.other = stored.lazy()
    assert model.looked == 1
    check(model, model.other, stored)
