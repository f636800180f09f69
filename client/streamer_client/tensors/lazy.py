"""Tensors that stand for bytes of a checkpoint that are not fetched yet.

vLLM hands each rank whole tensors, of which a rank of a tensor-parallel group keeps only a part. A
lazy tensor knows where its bytes lie, and so does each view of it. A copy from a view fetches the
bytes of that view alone. Every operation of torch on a lazy tensor gives the right result, but some
cost more. An operation that makes no view fetches all bytes that the tensor stands for, as an
ordinary tensor of the promised device.

Owns how lazy tensors behave; `stored` owns their memory. Runs in the threads that load weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, Self

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_iter, tree_map_only

from streamer_client.copy.torch_state import outside_inference
from streamer_client.tensors.stored import Stored

aten: Final = torch.ops.aten


class LazyTensor(torch.Tensor):
    """Stands for a view of a stored tensor; made by `lazy`.

    Its size, strides, dtype and device are those of the tensor that it stands for.
    """

    _form: torch.Tensor
    """A meta tensor of the same layout, on a storage as large as the stored tensor."""
    _stored: Stored

    def __new__(cls, form: torch.Tensor, stored: Stored) -> Self:
        # An inference tensor could not be viewed outside of inference_mode, and loaders may run
        # there.
        with outside_inference():
            made: Self = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001  torch's own way
                cls,
                form.size(),
                strides=form.stride(),
                storage_offset=form.storage_offset(),
                dtype=form.dtype,
                layout=form.layout,
                device=stored.device,
                requires_grad=False,
            )
        # The tensor has no memory. Code that would use its address 0 raises an error instead of
        # crashing.
        torch._C._set_throw_on_mutable_data_ptr(made)  # noqa: SLF001  as torch's FakeTensor does
        made._form = form
        made._stored = stored
        return made

    def __init__(self, *_: object) -> None:
        """Do nothing, as `__new__` does it all for tensors; `torch.Tensor(lazy)` calls this."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Fetch memory for functions that need it and do not reach the dispatcher."""
        named = kwargs or {}
        if func in _READS_MEMORY:
            args, named = _all(ordinary, args), _all(ordinary, named)
        elif func in _KEEPS_MEMORY:
            args, named = _all(_lasting, args), _all(_lasting, named)
        elif func == _DATA_SETTER and isinstance(args[0], cls):
            args[0]._becomes(_as_lazy(args[1]))  # noqa: SLF001  of this class
            return None
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  as torch's subclasses do
            return func(*args, **named)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's stub lacks `func`
        cls,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if _is_composite(func):  # in inference_mode, torch has not decomposed it
            parts = func.decompose(*args, **named)
            if parts is not NotImplemented:
                return parts
        if isinstance(args[0] if args else None, cls):
            if _makes_views(func):
                return _viewed(func, args, named)
            if _reads_form_alone(func, named):
                return _of_form(func, args, named)
            if torch.Tag.inplace_view in func.tags:
                return args[0]._turned(func, args, named)  # noqa: SLF001  of this class
        elif func is aten.copy_.default and isinstance(args[1], cls):
            return _copied(args[0], args[1], *args[2:], **named)
        if func.namespace in _WRITES_UNTOLD:
            return func(*_all(_lasting, args), **_all(_lasting, named))
        written = _written(func, args, named)
        if written:
            return _written_to(func, args, named, written)
        return func(*_all(ordinary, args), **_all(ordinary, named))

    def _becomes(self, other: LazyTensor) -> None:
        """Stand for what another lazy tensor stands for, because `data` is set to that tensor."""
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  as torch's own subclasses do
            _DATA_SETTER(self, other)
        self._form, self._stored = _form_like(other), other._stored

    def _turned(self, func: Any, args: Sequence[Any], named: dict[str, Any]) -> LazyTensor:
        """Carry out `t_`, `unsqueeze_` and similar: the same memory in another form."""
        if func in _CHANGES_MEMORY:
            raise NotImplementedError(
                f"{func} of a weight that is not fetched yet; use a copy: weight.clone()"
            )
        with outside_inference():
            func(self._form, *args[1:], **named)
        with no_dispatch():
            func(*args, **named)
        return self

    def __repr__(self) -> str:  # type: ignore[override]  # torch's argument is for its own use
        return (
            f"LazyTensor(size={tuple(self.size())}, dtype={self.dtype}, device={self.device}; "
            "its bytes are not fetched yet)"
        )


def lazy(size: Sequence[int], dtype: torch.dtype, stored: Stored) -> LazyTensor:
    """A tensor of contiguous rows, whose bytes are fetched when they are needed.

    Args:
        size: shape of the tensor.
        dtype: dtype of the tensor.
        stored: where its bytes come from.
    """
    with outside_inference():
        form = torch.empty(tuple(size), dtype=dtype, device="meta")
    return LazyTensor(form, stored)


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as an ordinary tensor; a tensor that is not lazy is returned as it is."""
    if not isinstance(tensor, LazyTensor):
        return tensor
    return tensor._stored.ordinary(tensor._form)  # noqa: SLF001  of this module


def _lasting(tensor: LazyTensor) -> torch.Tensor:
    """An ordinary tensor on the memory that all views of the same stored tensor share."""
    return tensor._stored.lasting(tensor._form)  # noqa: SLF001  of this module


def _all(made: Callable[[LazyTensor], torch.Tensor], values: Any) -> Any:
    return tree_map_only(LazyTensor, made, values)


def _as_lazy(tensor: torch.Tensor) -> LazyTensor:
    """A lazy tensor on the memory of an ordinary one."""
    if isinstance(tensor, LazyTensor):
        return tensor
    stored = Stored.on_memory_of(tensor)
    with outside_inference():
        count = stored.size_bytes // tensor.element_size()
        form = torch.empty(count, dtype=tensor.dtype, device="meta").as_strided(
            tensor.size(), tensor.stride(), tensor.storage_offset()
        )
    return LazyTensor(form, stored)


def _form_like(tensor: LazyTensor) -> torch.Tensor:
    """A separate form for a tensor that stands for the same bytes as this lazy tensor."""
    with outside_inference():
        return tensor._form.view_as(tensor._form)  # noqa: SLF001  of this module


def _viewed(func: Any, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """The view or views that an operator makes, computed from the form alone."""
    first: LazyTensor = args[0]
    stored = first._stored  # noqa: SLF001  of this module
    with outside_inference():
        forms = func(first._form, *args[1:], **named)  # noqa: SLF001  of this module
    if isinstance(forms, torch.Tensor):
        return LazyTensor(forms, stored)
    return tree_map_only(torch.Tensor, lambda form: LazyTensor(form, stored), forms)


def _of_form(func: Any, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """The result of an operator that needs only a tensor's size, strides, dtype and device."""
    first: LazyTensor = args[0]
    on = dict(named)
    if on.get("device") is None:
        on["device"] = first.device
    return func(first._form, *args[1:], **on)  # noqa: SLF001  of this module


def _copied(target: torch.Tensor, source: LazyTensor, non_blocking: bool = False) -> torch.Tensor:
    """Carry out `target.copy_(source)`; for a meta target, which has no memory, fetch nothing."""
    if target.device.type == "meta":
        return target.copy_(source._form)  # noqa: SLF001  of this module; checks the shapes
    return target.copy_(ordinary(source), non_blocking=non_blocking)


def _written(func: Any, args: Sequence[Any], named: dict[str, Any]) -> list[LazyTensor]:
    """The lazy tensors that an operator writes to, as its schema says."""
    found: list[LazyTensor] = []
    for place, argument in enumerate(func._schema.arguments):  # noqa: SLF001  how torch tells it
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[place] if place < len(args) else named.get(argument.name)
        found.extend(one for one in tree_iter(value) if isinstance(one, LazyTensor))
    return found


def _written_to(
    func: Any, args: Sequence[Any], named: dict[str, Any], written: list[LazyTensor]
) -> Any:
    """Carry out an operator that writes to lazy tensors, whose whole memory is fetched for it.

    The operator returns the tensors that it wrote to; this returns the lazy tensors in their place.
    """
    memories = {id(one): _lasting(one) for one in written}

    def memory(one: LazyTensor) -> torch.Tensor:
        return memories[id(one)] if id(one) in memories else ordinary(one)

    result = func(*_all(memory, args), **_all(memory, named))
    lazies = {id(memories[id(one)]): one for one in written}
    return tree_map_only(torch.Tensor, lambda one: lazies.get(id(one), one), result)


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operator is defined in terms of other operators."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd  # noqa: SLF001  its name
    known = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)  # noqa: SLF001  as `decompose` asks
    return known or key in func.py_kernels


@cache
def _makes_views(func: Any) -> bool:
    """Whether an operator reads no element and returns only views of its first argument.

    The unsafe splits declare that they make no views, so that autograd lets each part be written
    to; their results are views all the same. Conjugated or negated views do not count here, because
    their bit would have to travel with the form.
    """
    if func in _BITS:
        return False
    return bool(func.is_view) or func in _UNSAFE_SPLITS


def _reads_form_alone(func: Any, named: dict[str, Any]) -> bool:
    """Whether an operator reads no element of its first argument."""
    if func is aten._to_copy.default:  # noqa: SLF001  its name
        return named.get("device") == torch.device("meta")
    return func.overloadpacket in _LIKE


_LIKE: Final = frozenset(
    {
        aten.empty_like,
        aten.full_like,
        aten.new_empty,
        aten.new_empty_strided,
        aten.new_full,
        aten.new_ones,
        aten.new_zeros,
        aten.ones_like,
        aten.rand_like,
        aten.randint_like,
        aten.randn_like,
        aten.zeros_like,
    }
)
_BITS: Final = frozenset({aten._conj.default, aten._neg_view.default})  # noqa: SLF001  their names
_UNSAFE_SPLITS: Final = frozenset({aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default})
_CHANGES_MEMORY: Final = frozenset(
    getattr(packet, overload)
    for packet in (aten.resize_, aten.resize_as_, aten.set_)
    for overload in packet.overloads()  # type: ignore[no-untyped-call]  # torch's lacks types
)
_WRITES_UNTOLD: Final = frozenset({"c10d"})
"""Namespaces of operators that write to arguments although their schemas do not say so."""


_DATA_SETTER: Final = torch.Tensor.data.__set__  # type: ignore[attr-defined]  # a property of C
_CUDA_ARRAY: Final = torch.Tensor.__cuda_array_interface__.__get__
_READS_MEMORY: Final = frozenset(
    {
        torch.Tensor.__deepcopy__,
        torch.Tensor.__reduce_ex__,
        torch.Tensor.__repr__,
        torch.Tensor.tolist,
    }
)
_KEEPS_MEMORY: Final = frozenset(
    {
        _CUDA_ARRAY,
        torch.Tensor.__array__,
        torch.Tensor.__dlpack__,
        torch.Tensor._typed_storage,  # noqa: SLF001  what `storage` is made of
        torch.Tensor.apply_,
        torch.Tensor.data_ptr,
        torch.Tensor.map2_,
        torch.Tensor.map_,
        torch.Tensor.numpy,
        torch.Tensor.share_memory_,
        torch.Tensor.storage,
        torch.Tensor.untyped_storage,
    }
)
"""`_READS_MEMORY` and `_KEEPS_MEMORY` are functions that would use memory that a lazy tensor does
not have, or would fail. torch asks `__torch_function__` about them, and never the dispatcher. The
results of `_KEEPS_MEMORY` refer to the memory, which must therefore last as long as the lazy tensor
and its views."""
