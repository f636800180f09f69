"""A ring made of torch alone: where there is no compiled part, and as its measure.

The same slots and streams, with one step of the interpreter for each slot and each copy. What of it
touches a device stands in `Device`, so that all else is tested without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import torch

from streamer_client.block_jobs import Piece
from streamer_client.destination import Target, host_memory
from streamer_client.ring.lanes import CudaFailure

T = TypeVar("T")
_cuda: Final[Any] = torch.cuda  # its events and streams have no types


class Sending(Protocol):
    """A stream of copies: those that were started run in order, in the background."""

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None: ...

    def mark(self) -> Callable[[], None]:
        """What waits until everything started so far is done."""
        ...


class Device(Protocol):
    """What a ring asks of a kind of device."""

    def pinned(self, size_bytes: int) -> torch.Tensor: ...
    def sending(self) -> Sending: ...
    def fence(self) -> None: ...


class TorchRing:
    """See `lanes.Ring`."""

    def __init__(self, device: Device, slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._device = device
        self._slots = slots

    def fence(self) -> None:
        self._device.fence()

    def lane(self) -> TorchLane:
        return TorchLane(self._device, self._slots, self.slot_bytes)

    def close(self) -> None:
        """Slots belong to the lanes."""


class TorchLane:
    """See `lanes.Lane`; slots are pinned at their first use."""

    def __init__(self, device: Device, slots: int, slot_bytes: int) -> None:
        self._device = device
        self._slot_bytes = slot_bytes
        self._sending = _translated(device.sending)
        self._slots: list[torch.Tensor | None] = [None] * slots
        self._marks: list[Callable[[], None] | None] = [None] * slots
        self.sent = 0

    def copy(self, fd: int, start: int, total: int, pieces: Sequence[Piece[Target]]) -> bool:
        del fd, start, total, pieces
        return False

    def slot(self) -> memoryview:
        return host_memory(self._free_slot())

    def _free_slot(self) -> torch.Tensor:
        place = self.sent % len(self._slots)
        mark = self._marks[place]
        if mark is not None:
            _translated(mark)
            self._marks[place] = None
        slot = self._slots[place]
        if slot is None:
            slot = self._slots[place] = _translated(lambda: self._device.pinned(self._slot_bytes))
        return slot

    def send(self, skip: int, total: int, pieces: Sequence[Piece[Target]]) -> None:
        slot = self._free_slot()
        mark = _translated(lambda: self._start(slot[skip : skip + total], pieces))
        self._marks[self.sent % len(self._slots)] = mark
        self.sent += 1

    def _start(self, source: torch.Tensor, pieces: Sequence[Piece[Target]]) -> Callable[[], None]:
        at = 0
        for target, start, stop in pieces:
            self._sending.copy(target.flat[start:stop], source[at : at + stop - start])
            at += stop - start
        return self._sending.mark()

    def wait(self, sent: int) -> None:
        if sent > self.sent - len(self._slots) and sent > 0:
            mark = self._marks[(sent - 1) % len(self._slots)]
            if mark is not None:
                _translated(mark)

    def close(self) -> None:
        try:
            for mark in self._marks:
                if mark is not None:
                    _translated(mark)
        finally:
            self._slots.clear()
            self._marks.clear()


def _translated(call: Callable[[], T]) -> T:
    try:
        return call()
    except RuntimeError as error:
        raise CudaFailure(str(error).partition("\n")[0]) from error


class CudaDevice:
    """CUDA through torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._fence = _cuda.Event()

    def pinned(self, size_bytes: int) -> torch.Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def sending(self) -> Sending:
        return _CudaSending(self._device, self._fence)

    def fence(self) -> None:
        self._fence.record(torch.cuda.current_stream(self._device))


class _CudaSending:
    def __init__(self, device: torch.device, fence: torch.cuda.Event) -> None:
        self._stream = _cuda.Stream(device)
        self._fence = fence

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:
        self._stream.wait_event(self._fence)
        with torch.cuda.stream(self._stream):
            to.copy_(source, non_blocking=True)

    def mark(self) -> Callable[[], None]:
        event = _cuda.Event(blocking=True)
        event.record(self._stream)
        wait: Callable[[], None] = event.synchronize
        return wait
