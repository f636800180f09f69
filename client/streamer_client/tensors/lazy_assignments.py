"""Keeps lazy tensors out of a model while its weights are loaded.

A model's loader may assign the tensor that it was handed: as a parameter's `data`, as a parameter,
as a buffer, or as an attribute. A lazy tensor there would crash or mislead whoever runs the model.
Assignments that torch reports are caught where they happen. The others are found after the load, by
looking through the modules. Runs in the thread that loads weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from streamer_client.tensors.lazy import LazyTensor, ordinary
from streamer_client.tensors.stored import any_alive

_DATA_SETTER: Final = torch.Tensor.data.__set__  # type: ignore[attr-defined]  # a property of C
CONTAINERS_DEPTH: Final = 4
"""How deep a module's lists, tuples and mappings are searched."""


@contextmanager
def no_lazy_left(model: nn.Module) -> Iterator[None]:
    """For the time of a load, make every tensor that is assigned to the model an ordinary one.

    After a load without an error, every parameter, buffer and attribute of every module of `model`
    is an ordinary tensor, also inside lists, tuples and mappings.
    """
    parameter_hook: Any = _registered_parameter  # torch's types say that a hook returns None,
    buffer_hook: Any = _registered_buffer  # its documentation: the value to register
    with ExitStack() as hooks:
        hooks.callback(register_module_parameter_registration_hook(parameter_hook).remove)
        hooks.callback(register_module_buffer_registration_hook(buffer_hook).remove)
        hooks.enter_context(_OrdinaryData())
        yield
    if any_alive():
        sweep(model)


class _OrdinaryData(TorchFunctionMode):
    """Catches `parameter.data = weight`, which never reaches the dispatcher."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func == _DATA_SETTER and isinstance(args[1], LazyTensor):
            args = (args[0], ordinary(args[1]))
        return func(*args, **(kwargs or {}))


def _registered_parameter(
    _module: nn.Module, _name: str, parameter: nn.Parameter | None
) -> nn.Parameter | None:
    return _ordinary_parameter(parameter) if isinstance(parameter, LazyTensor) else None


def _registered_buffer(
    _module: nn.Module, _name: str, buffer: torch.Tensor | None
) -> torch.Tensor | None:
    return ordinary(buffer) if isinstance(buffer, LazyTensor) else None


def _ordinary_parameter(lazy: LazyTensor) -> nn.Parameter:
    """Make a real parameter of `Parameter(weight)`, which is the lazy weight with a mark."""
    made = nn.Parameter(ordinary(lazy), requires_grad=False)
    made.__dict__.update(
        {name: value for name, value in vars(lazy).items() if name not in _OWN_ATTRIBUTES}
    )
    return made


_OWN_ATTRIBUTES: Final = frozenset({"_form", "_stored", "_is_param"})


def sweep(model: nn.Module) -> None:
    """Replace every lazy tensor in the modules of `model` by an ordinary one."""
    for module in model.modules():
        for values in (module._parameters, module._buffers, vars(module)):  # noqa: SLF001  torch has no public way to replace them
            _sweep_mapping(values, CONTAINERS_DEPTH)


def _sweep_mapping(values: MutableMapping[Any, Any], depth: int) -> None:
    for name, value in list(values.items()):
        found = _swept(value, depth)
        if found is not value:
            values[name] = found


def _swept(value: Any, depth: int) -> Any:
    """The value without lazy tensors; the same object if it had none."""
    if isinstance(value, LazyTensor):
        marked = getattr(value, "_is_param", False)
        return _ordinary_parameter(value) if marked else ordinary(value)
    if not depth or isinstance(value, nn.Module):
        return value
    if isinstance(value, dict):
        _sweep_mapping(value, depth - 1)
    elif isinstance(value, list):
        value[:] = [_swept(one, depth - 1) for one in value]
    elif type(value) is tuple and any(isinstance(one, LazyTensor) for one in value):
        return tuple(_swept(one, depth - 1) for one in value)
    return value
