"""Memory that stored bytes are copied to.

`Target` is the memory that engines copy to. `Destination` is a private tensor whose bytes are
converted into a parameter at the end, as vLLM's sharded loader does. Each dimension of the
parameter is narrowed to the stored size if that is smaller, then copied to with conversion.
`tensors/in_place.py` handles parameters that bytes can be copied straight into. Copying threads use
the memory; everything else runs in the caller's thread.
"""

from __future__ import annotations

import array
import ctypes
from collections.abc import Iterator
from typing import Final, Protocol

import torch

from streamer_client.contract.errors import SourceError
from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.dtypes import torch_form

# numpy would do the same, but torch can be installed without it.
_from_memory: Final = ctypes.PYFUNCTYPE(
    ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
)(("PyMemoryView_FromMemory", ctypes.pythonapi))
_WRITABLE: Final = 0x200
"""The value of PyBUF_WRITE in Python's object.h."""


class Target(Protocol):
    """Memory that bytes are copied to, as the engines see it."""

    left_bytes: int
    """Bytes that have not arrived yet; the copier counts them down as it collects jobs."""

    @property
    def on_host(self) -> bool:
        """Whether system calls can write to it."""
        ...

    def extents(self, start: int, stop: int) -> array.array[int]:
        """Where bytes `start` to `stop` lie: address, size, address, size, ..., in their order."""
        ...

    def memories(self, start: int, stop: int) -> Iterator[memoryview]:
        """The memory of bytes `start` to `stop` for system calls; only if `on_host`."""
        ...

    def flats(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """The memory of bytes `start` to `stop` as flat uint8 tensors."""
        ...

    def told(self, start: int, stop: int) -> str:
        """The name of the tensor that bytes `start` to `stop` belong to, for the text of errors."""
        ...


class Contiguous:
    """Base of targets whose bytes lie in one stretch of memory."""

    __slots__ = ()

    address: int
    flat: torch.Tensor
    """The bytes as a flat uint8 tensor."""
    left_bytes: int

    def told(self, start: int, stop: int) -> str:
        """The name of the tensor that bytes `start` to `stop` belong to, for the text of errors."""
        raise NotImplementedError

    @property
    def on_host(self) -> bool:
        return self.flat.device.type == "cpu"

    def extents(self, start: int, stop: int) -> array.array[int]:
        return array.array("Q", (self.address + start, stop - start))

    def memories(self, start: int, stop: int) -> Iterator[memoryview]:
        yield memory_at(self.address + start, stop - start)

    def flats(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        yield self.flat[start:stop]


class Destination(Contiguous):
    """A private tensor that takes one stored tensor's bytes.

    Args:
        entry: the stored tensor.
        tensor: contiguous memory of exactly its bytes, on any device.
        uri: the stored tensor's shard, for the text of errors.
        target: the parameter that `finish` copies `tensor` to.
        deferred: whether `finish` is called only at the end of the pass.
    """

    __slots__ = ("address", "deferred", "entry", "flat", "left_bytes", "target", "tensor", "uri")

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
        self.flat = tensor.reshape(-1).view(torch.uint8)
        self.address = self.flat.data_ptr()

    def told(self, start: int, stop: int) -> str:
        return f"bytes {start} to {stop} of tensor {self.entry.name} of {self.uri}"

    def finish(self) -> None:
        """Copy the private tensor to its parameter, with conversion.

        Raises:
            SourceError: the stored tensor does not fit the parameter.
        """
        if self.target is not None:
            copy_narrowed(self.entry, self.tensor, self.target, self.uri)
            self.target = None


def host_memory(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU; valid while the tensor lives."""
    size = tensor.nbytes
    return memory_at(tensor.data_ptr(), size) if size else memoryview(b"")


def memory_at(address: int, size_bytes: int) -> memoryview:
    """Writable memory of this process; the caller must keep the memory alive."""
    memory: memoryview = _from_memory(address, size_bytes, _WRITABLE)
    return memory


def fresh(entry: TensorEntry, device: torch.device) -> torch.Tensor:
    """A new tensor of the dtype and shape in which `entry` is handed out; its bytes are not set."""
    dtype, shape = torch_form(entry.dtype, entry.shape)
    return torch.empty(shape, dtype=dtype, device=device)


def copy_narrowed(entry: TensorEntry, tensor: torch.Tensor, target: torch.Tensor, uri: str) -> None:
    """Copy `tensor` into the leading corner of `target`, converting the dtype.

    Raises:
        SourceError: `tensor` does not fit; the text names both shapes.
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
