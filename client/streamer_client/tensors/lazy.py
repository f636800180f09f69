"""Tensors that stand for bytes of a checkpoint that are not fetched yet.

vLLM hands each rank whole tensors, of which a rank of a tensor-parallel group keeps a part. A lazy
tensor knows where its bytes lie; views of it are views of that knowledge, and what is at last
copied is fetched, that slice alone. Everything that torch does with one is right, only not always
cheap: what is no view fetches what the tensor names, as an ordinary tensor of the device that was
promised.

Owns the semantics. Fetching is the work of whoever makes them (`Fetch`). Runs in the thread that
loads weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, Self

import torch
from torch.utils._pytree import tree_iter, tree_map_only

from streamer_client.copy.cut import Cut, cut_of

aten: Final = torch.ops.aten


class Fetch(Protocol):
    """Brings rows of one stored tensor."""

    def __call__(self, cut: Cut) -> torch.Tensor:
        """The cut's rows one after the other, in a new flat uint8 tensor on the promised device.

        Its bytes are there for all later work on the current stream.

        Raises:
            StreamerError: they cannot be had.
        """
        ...


class Stored:
    """One tensor of a checkpoint, of which lazy tensors are views.

    Args:
        fetch: brings its rows.
        device: of what is fetched.
    """

    __slots__ = ("_fetch", "device", "whole")

    def __init__(self, fetch: Fetch, device: torch.device) -> None:
        self._fetch = fetch
        self.device = device
        self.whole: torch.Tensor | None = None
        """All of it, flat and of uint8, once something wrote to a view of it: views made before and
        after then share this memory, as views do."""

    def ordinary(self, form: torch.Tensor) -> torch.Tensor:
        """An ordinary tensor with the values of the view that `form` (a meta tensor) describes."""
        if self.whole is not None:
            return _seen(self.whole, form)
        if not form.numel():
            return torch.empty_strided(
                form.size(), form.stride(), dtype=form.dtype, device=self.device
            )
        found = cut_of(form.size(), form.stride(), int(form.storage_offset()), form.element_size())
        if found is None:
            return _seen(self.all_of(form), form)
        cut, layout = found
        flat = self._fetch(cut).view(form.dtype)
        return flat.as_strided(layout.size, layout.strides)

    def all_of(self, form: torch.Tensor) -> torch.Tensor:
        """The whole stored tensor as flat uint8; fetched now."""
        size_bytes = form.untyped_storage().nbytes()
        return self._fetch(Cut(0, size_bytes, ()))

    def written_to(self, form: torch.Tensor) -> torch.Tensor:
        """The view as an ordinary tensor on the memory that all views of it share from now on."""
        if self.whole is None:
            self.whole = self.all_of(form)
        return _seen(self.whole, form)


def _seen(whole: torch.Tensor, form: torch.Tensor) -> torch.Tensor:
    """The view that `form` describes, on the flat bytes of its whole stored tensor."""
    typed = whole[: whole.numel() // form.element_size() * form.element_size()].view(form.dtype)
    return typed.as_strided(form.size(), form.stride(), form.storage_offset())


class LazyTensor(torch.Tensor):
    """Stands for a view of a stored tensor; made by `lazy`.

    Size, strides, dtype and device are those of the tensor that it stands for.
    """

    _form: torch.Tensor
    """A meta tensor of the same layout, on a storage as large as the stored tensor."""
    _stored: Stored

    def __new__(cls, form: torch.Tensor, stored: Stored) -> Self:
        # An inference tensor could not be viewed outside of inference_mode, where loaders may be.
        with torch.inference_mode(mode=False):
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
        made._form = form
        made._stored = stored
        return made

    def __init__(self, form: torch.Tensor, stored: Stored) -> None:
        """All is done in `__new__`, as torch makes tensors."""

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Any = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Fetch for what asks for memory and never comes to the dispatcher; else go on."""
        named = kwargs or {}
        if func in _ASKS_FOR_MEMORY:
            args, named = _all_ordinary(args), _all_ordinary(named)
        with torch._C.DisableTorchFunctionSubclass():  # noqa: SLF001  as torch's own subclasses do
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
        parts = func.decompose(*args, **named)  # in inference_mode nobody did so before
        if parts is not NotImplemented:
            return parts
        if _makes_views(func) and isinstance(args[0], cls):
            return _viewed(func, args, named)
        if func is aten.copy_.default and isinstance(args[1], cls) and not isinstance(args[0], cls):
            return _copied(args[0], args[1], *args[2:], **named)
        written = _written(func, args, named)
        if written:
            return _written_to(func, args, named, written)
        return func(*_all_ordinary(args), **_all_ordinary(named))

    def __repr__(self) -> str:  # type: ignore[override]  # torch's argument is for its own use
        return (
            f"LazyTensor(size={tuple(self.size())}, dtype={self.dtype}, device={self.device}; "
            "its bytes are not fetched yet)"
        )


def lazy(size: Sequence[int], dtype: torch.dtype, device: torch.device, fetch: Fetch) -> LazyTensor:
    """A tensor of contiguous rows whose bytes come when they are needed.

    Args:
        size: its shape.
        dtype: of its elements.
        device: what it says it is on, and where `fetch` brings bytes to.
        fetch: brings rows of it.
    """
    with torch.inference_mode(mode=False):
        form = torch.empty(tuple(size), dtype=dtype, device="meta")
    return LazyTensor(form, Stored(fetch, device))


def ordinary(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a tensor that is not lazy; an ordinary tensor is returned as it is."""
    if not isinstance(tensor, LazyTensor):
        return tensor
    return tensor._stored.ordinary(tensor._form)  # noqa: SLF001  of this module


def _all_ordinary(values: Any) -> Any:
    return tree_map_only(LazyTensor, ordinary, values)


def _viewed(func: Any, args: Sequence[Any], named: dict[str, Any]) -> Any:
    """The view, or views, that an operator makes: made of the form alone."""
    first: LazyTensor = args[0]
    stored = first._stored  # noqa: SLF001  of this module
    with torch.inference_mode(mode=False):
        forms = func(first._form, *args[1:], **named)  # noqa: SLF001  of this module
    return tree_map_only(torch.Tensor, lambda form: LazyTensor(form, stored), forms)


def _copied(target: torch.Tensor, source: LazyTensor, non_blocking: bool = False) -> torch.Tensor:
    """`target.copy_(source)`; a meta tensor has no memory that bytes could go to."""
    if target.device.type != "meta":
        target.copy_(ordinary(source), non_blocking=non_blocking)
    return target


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
    """Carry out an operator that writes to lazy tensors: their whole memory is fetched for it.

    The operator returns what it wrote to, and so does this: the lazy tensors themselves.
    """
    memories = {id(one): one._stored.written_to(one._form) for one in written}  # noqa: SLF001

    def memory(one: LazyTensor) -> torch.Tensor:
        return memories[id(one)] if id(one) in memories else ordinary(one)

    result = func(
        *tree_map_only(LazyTensor, memory, args), **tree_map_only(LazyTensor, memory, named)
    )
    lazies = {id(memories[id(one)]): one for one in written}
    return tree_map_only(torch.Tensor, lambda one: lazies.get(id(one), one), result)


def _makes_views(func: Any) -> bool:
    """Whether the operator reads no element, and what it returns are views of its first argument.

    The unsafe splits say that they make no views, so that autograd lets each part be written to;
    what they return is one all the same. A conjugated or negated view is none here: its bit
    would have to travel with the form.
    """
    if func in _BITS:
        return False
    return bool(func.is_view) or func in _UNSAFE_SPLITS


_BITS: Final = frozenset({aten._conj.default, aten._neg_view.default})  # noqa: SLF001  their names
_UNSAFE_SPLITS: Final = frozenset({aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default})


_ASKS_FOR_MEMORY: Final = frozenset(
    {
        torch.Tensor.__array__,
        torch.Tensor.__deepcopy__,
        torch.Tensor.__dlpack__,
        torch.Tensor.__reduce_ex__,
        torch.Tensor.__repr__,
        torch.Tensor.data_ptr,
        torch.Tensor.numpy,
        torch.Tensor.share_memory_,
        torch.Tensor.storage,
        torch.Tensor.tolist,
        torch.Tensor.untyped_storage,
        torch._C._to_dlpack,  # noqa: SLF001  what `torch.utils.dlpack.to_dlpack` is
    }
)
"""Functions that would answer for memory that a lazy tensor has not, or refuse; torch asks
`__torch_function__` about them, and never the dispatcher."""
