"""Slices of stored tensors, and the interfaces of what gathers them.

Owns a slice's memory and its state while it is gathered. `gather.py` owns the order of work, and
the engines bring the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from streamer_client.copy.cut import Cut, Part
from streamer_client.copy.destination import Contiguous
from streamer_client.copy.feed import Image
from streamer_client.copy.torch_state import current_stream_number, outside_inference


class GatherEngine(Protocol):
    """Gathers parts of slices; see `CopyEngine` for who calls which method."""

    @property
    def threads(self) -> int: ...
    @property
    def queue(self) -> SliceQueue | None:
        """A queue that threads serve without the interpreter, if there is one."""
        ...

    def fence(self) -> None: ...
    def enter(self) -> None: ...
    def gather(self, parts: Sequence[Readable]) -> int: ...
    def settle(self, ticket: int) -> None: ...
    def leave(self) -> None: ...
    def close(self) -> None: ...


class SliceQueue(Protocol):
    """Slices that threads gather without the interpreter; see `ring/slice_queue.py`."""

    def push(self, made: Slice, image: Image, *, foretold: bool) -> bool: ...
    def wait(self, made: Slice) -> None: ...
    def withdraw(self, made: Slice) -> None: ...
    def calls(self) -> int: ...
    def call(self) -> None: ...
    def serve(self, calls: int) -> bool: ...
    def end(self) -> None: ...


class Source(Protocol):
    """The bytes that a slice is cut from."""

    def __call__(self, start: int, stop: int, *, wait: bool) -> Image | None:
        """Return the image that has bytes `start` to `stop`.

        If they cannot be read yet, wait for them, or return None if `wait` is false.

        Raises:
            StreamerError: the bytes will never be there.
        """
        ...


class Slice(Contiguous):
    """New memory for the rows of one cut. Serves as a `Target`.

    Args:
        cut: the rows, counted from the image's first byte.
        device: device of the memory.
        told: name of the slice, for the text of errors.
        source: the bytes that the rows are cut from.
    """

    __slots__ = (
        "_told",
        "address",
        "awaited",
        "claimed_bytes",
        "cut",
        "errors",
        "flat",
        "left_bytes",
        "number",
        "source",
        "stream",
        "tickets",
    )

    def __init__(self, cut: Cut, device: torch.device, told: str, source: Source) -> None:
        self.cut = cut
        self.source = source
        self.number: int | None = None
        """The engine's number of the slice while it is in the engine's queue."""
        # An inference tensor could not be written to outside of inference_mode.
        with outside_inference():
            self.flat = torch.empty(cut.size_bytes, dtype=torch.uint8, device=device)
        self.stream = current_stream_number(device)
        """The stream that the memory was allocated for."""
        self.address = self.flat.data_ptr()
        self._told = told
        self.claimed_bytes = 0
        """How many bytes, from the first on, threads have claimed."""
        self.left_bytes = cut.size_bytes
        """How many bytes are neither gathered nor given up."""
        self.awaited = False
        """Whether somebody waits until no bytes are left."""
        self.tickets: list[int] = []
        self.errors: list[BaseException] = []

    def told(self, start: int, stop: int) -> str:
        return f"bytes {start} to {stop} of a slice of {self._told}"


class Claim(NamedTuple):
    """Bytes of a slice that one thread gathers."""

    slice: Slice
    part: Part


class Readable(NamedTuple):
    """A claim whose bytes can be read from an image."""

    slice: Slice
    part: Part
    image: Image
