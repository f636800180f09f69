"""Memory that one tensor's bytes go to, and what remains to be done when they are all there.

Owns how stored bytes become a parameter: straight into its memory where dtype, shape and layout are
the same; else through a private tensor, with the semantics of vLLM's sharded loader: each dimension
of the target is narrowed to the stored size where that is smaller, then copied with conversion.
"""

from __future__ import annotations

import ctypes
from typing import Final, Protocol

import torch

from streamer_client.contract.catalog import TensorEntry
from streamer_client.contract.errors import SourceError
from streamer_client.dtypes import torch_form

# numpy would do the same, but torch comes without it.
_from_memory: Final = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
)(("PyMemoryView_FromMemory", ctypes.pythonapi))
_WRITABLE: Final = 0x200
"""PyBUF_WRITE of Python's object.h."""


class Target(Protocol):
    """Memory that bytes are copied to, as those see it who copy."""

    left_bytes: int
    """Bytes not yet there; counted down by whoever collects finished jobs."""
    memory: memoryview | None
    """The bytes for system calls; None on other devices than the CPU."""

    @property
    def flat(self) -> torch.Tensor:
        """The bytes as a flat uint8 tensor."""
        ...

    @property
    def address(self) -> int:
        """Where they begin in the device's memory."""
        ...

    def told(self, start: int, stop: int) -> str:
        """What bytes `start` to `stop` are, for the text of errors."""
        ...


class Destination:
    """Where one tensor goes.

    Args:
        entry: the stored tensor.
        tensor: contiguous memory of exactly its bytes, on any device.
        uri: the shard it comes from, for the text of errors.
        target: what `tensor` is to be copied to at the end, if it is only a stage.
        deferred: the end is that of the whole pass.
    """

    __slots__ = ("deferred", "entry", "left_bytes", "memory", "target", "tensor", "uri")

    def __init__(
        self,
        entry: TensorEntry,
        tensor: torch.Tensor,
        *,
        uri: str = "",
        target: torch.Tensor | None = None,
        deferred: bool = False,
    ) -> None:
        self.entry = entry
        self.uri = uri
        self.deferred = deferred
        self.tensor = tensor
        self.target = target
        self.left_bytes = entry.stop - entry.start
        self.memory = host_memory(tensor) if tensor.device.type == "cpu" else None

    @property
    def flat(self) -> torch.Tensor:
        """The bytes as a flat uint8 tensor."""
        return self.tensor.reshape(-1).view(torch.uint8)

    @property
    def address(self) -> int:
        """Where the bytes begin in the device's memory."""
        return self.tensor.data_ptr()

    def told(self, start: int, stop: int) -> str:
        """What bytes `start` to `stop` are, for the text of errors."""
        return f"bytes {start} to {stop} of tensor {self.entry.name} of {self.uri}"

    def finish(self) -> None:
        """Carry the staged tensor over.

        Raises:
            SourceError: it does not fit its target.
        """
        if self.target is not None:
            copy_narrowed(self.entry, self.tensor, self.target, self.uri)
            self.target = None


def host_memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU; valid while the tensor lives."""
    size = tensor.nbytes
    return memory_at(tensor.data_ptr(), size) if size else memoryview(b"")


def memory_at(address: int, size_bytes: int) -> memoryview:
    """Writable memory of this process; whoever asks keeps it alive."""
    memory: memoryview = _from_memory(address, size_bytes, _WRITABLE)
    return memory


def fresh(entry: TensorEntry, device: torch.device) -> torch.Tensor:
    """A new tensor in the form in which `entry` is handed out; its bytes are not set."""
    dtype, shape = torch_form(entry.dtype, entry.shape)
    return torch.empty(shape, dtype=dtype, device=device)


def matches(entry: TensorEntry, target: torch.Tensor) -> bool:
    """Whether dtype and shape are what is stored, so that nobody needs to be told."""
    dtype, shape = torch_form(entry.dtype, entry.shape)
    return target.dtype == dtype and target.shape == shape


def plain(target: torch.Tensor) -> bool:
    """Whether the elements lie in memory one after the other, as they are stored."""
    return (
        target.layout == torch.strided
        and target.is_contiguous()
        and not target.is_neg()
        and not (target.is_complex() and target.is_conj())
    )


def copy_narrowed(entry: TensorEntry, tensor: torch.Tensor, target: torch.Tensor, uri: str) -> None:
    """Copy `tensor` into the leading corner of `target`, converting the dtype.

    Raises:
        SourceError: it does not fit; names both shapes.
    """
    where = target
    try:
        for dim, size in enumerate(tensor.shape):
            if size < where.shape[dim]:
                where = where.narrow(dim, 0, size)
        with torch.no_grad():
            where.copy_(tensor)
    except (RuntimeError, IndexError) as error:
        raise SourceError(
            f"tensor {entry.name} of {uri}, {entry.dtype} {list(entry.shape)}, does not fit its "
            f"target, {target.dtype} {list(target.shape)}: {error}; "
            "is this the checkpoint of another model or parallel size?"
        ) from error
