"""One stored tensor whose bytes are fetched when needed, and the memory behind its views.

Owns which bytes are fetched for a view, and the memory that views share when they need to. `lazy`
defines how views behave, and a `Fetch` brings the bytes. Runs in the threads that load weights.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol, Self
from weakref import WeakSet

import torch

from streamer_client.copy.cut import Cut, Layout, cut_of

MOST_TIMES: Final = 2
"""How many times a tensor's size is fetched slice by slice at most. After that the whole tensor is
fetched once, for loaders that, for example, convert the whole tensor for each expert."""


_alive: Final[WeakSet[Stored]] = WeakSet()


def any_alive() -> bool:
    """Whether this process has any lazy tensor now."""
    return bool(_alive)


class Fetch(Protocol):
    """Brings rows of one stored tensor."""

    def __call__(self, cut: Cut) -> torch.Tensor:
        """Return the cut's rows, one after the other, in a new flat uint8 tensor on the device.

        Later work on the current stream sees the bytes.

        Raises:
            StreamerError: the bytes cannot be fetched.
        """
        ...


class Stored:
    """One tensor of a checkpoint, whose views are lazy tensors.

    A view is described by its form: a meta tensor of the view's size, strides, offset and dtype.

    Args:
        fetch: brings rows of the tensor.
        device: device that the bytes are fetched to.
        size_bytes: size of the whole tensor.
    """

    __slots__ = (
        "__weakref__",
        "_fetch",
        "_fetched_bytes",
        "_lock",
        "_whole",
        "device",
        "size_bytes",
    )

    def __init__(self, fetch: Fetch, device: torch.device, size_bytes: int) -> None:
        self._fetch = fetch
        self.device = device
        self.size_bytes = size_bytes
        self._fetched_bytes = 0
        self._lock = threading.Lock()
        self._whole: torch.Tensor | None = None
        """All bytes, flat and of dtype uint8, once views need common memory."""
        _alive.add(self)

    @classmethod
    def on_memory_of(cls, tensor: torch.Tensor) -> Self:
        """Wrap an ordinary tensor's storage, so that lazy views can be taken of it."""
        storage = tensor.untyped_storage()
        made = cls(_fetched_already, tensor.device, storage.nbytes())
        made._whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        return made

    def ordinary(self, form: torch.Tensor) -> torch.Tensor:
        """An ordinary tensor with the values of a view."""
        if not form.numel():
            return torch.empty_strided(
                form.size(), form.stride(), dtype=form.dtype, device=self.device
            )
        found = None if self._whole is not None else _cut_of(form)
        if found is None:
            return self.lasting(form)
        cut, layout = found
        self._fetched_bytes += cut.size_bytes
        if self._fetched_bytes > MOST_TIMES * self.size_bytes:
            return self.lasting(form)
        return self._fetch(cut).view(form.dtype).as_strided(layout.size, layout.strides)

    def lasting(self, form: torch.Tensor) -> torch.Tensor:
        """The view as an ordinary tensor on the memory that all views share from now on.

        Writes to this memory are seen by views that were made before and after.
        """
        whole = self.keep()
        if whole.is_cuda:  # another stream may own the memory, if it fetched the bytes
            whole.record_stream(torch.cuda.current_stream(whole.device))
        item = form.element_size()
        typed = whole[: whole.numel() // item * item].view(form.dtype)
        return typed.as_strided(form.size(), form.stride(), form.storage_offset())

    def keep(self) -> torch.Tensor:
        """Fetch all bytes if that was not done yet, so that no view needs `fetch` any more."""
        with self._lock:
            if self._whole is None:
                self._whole = (
                    self._fetch(Cut(0, self.size_bytes, ()))
                    if self.size_bytes
                    else torch.empty(0, dtype=torch.uint8, device=self.device)
                )
            return self._whole


def _cut_of(form: torch.Tensor) -> tuple[Cut, Layout] | None:
    return cut_of(form.size(), form.stride(), int(form.storage_offset()), form.element_size())


def _fetched_already(cut: Cut) -> torch.Tensor:
    raise AssertionError(f"{cut} was asked of memory that is there already")
