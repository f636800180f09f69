"""Memory that stored bytes go to, and what remains to be done when they are all there.

Owns how a stored tensor becomes a parameter whose memory cannot take its bytes as they are: through
a private tensor, with the semantics of vLLM's sharded loader: each dimension of the target is
narrowed to the stored size where that is smaller, then copied with conversion. All others are read
straight into their memory (`in_place.py`).
"""

from __future__ import annotations

import array
import ctypes
from collections.abc import Iterator
from typing import Final, Protocol

import torch

from streamer_client.contract.catalog import TensorEntry
from streamer_client.contract.errors import SourceError
from streamer_client.copy.dtypes import torch_form

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

    @property
    def on_host(self) -> bool:
        """Whether system calls can write to it."""
        ...

    def extents(self, start: int, stop: int) -> array.array[int]:
        """Address and size of each piece of memory that bytes `start` to `stop` are, in turn."""
        ...

    def memories(self, start: int, stop: int) -> Iterator[memoryview]:
        """The same memory for system calls, where it is on the host."""
        ...

    def flats(self, start: int, stop: int) -> Iterator[torch.Tensor]:
        """The same memory as flat uint8 tensors."""
        ...

    def told(self, start: int, stop: int) -> str:
        """What bytes `start` to `stop` are, for the text of errors."""
        ...


class Contiguous:
    """Base of targets whose bytes lie in memory one after the other."""

    __slots__ = ()

    address: int
    flat: torch.Tensor
    """The bytes as a flat uint8 tensor."""
    left_bytes: int

    def told(self, start: int, stop: int) -> str:
        """What bytes `start` to `stop` are, for the text of errors."""
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
    """Where one tensor's bytes go that are not read straight into its target.

    Args:
        entry: the stored tensor.
        tensor: contiguous memory of exactly its bytes, on any device.
        uri: the shard it comes from, for the text of errors.
        target: what `tensor` is to be copied to at the end.
        deferred: the end is that of the whole pass.
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
