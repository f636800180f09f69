"""A ring made of torch alone, for installations without the compiled one.

It has the same slots and streams as the compiled ring, but Python starts each copy. So it also
shows what compiling gains. `Device` has all calls to a device, so that the rest can be tested on
machines without a GPU. Runs in the copier's threads.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeVar

import torch

from streamer_client.copy.destination import Target, host_memory
from streamer_client.copy.feed import Image
from streamer_client.copy.plan import Piece
from streamer_client.copy.ring.lanes import CudaFailure
from streamer_client.copy.slice import Readable

T = TypeVar("T")
_cuda: Final[Any] = torch.cuda  # its events and streams have no types


class Sending(Protocol):
    """One thread's stream of copies, which run in the background in the order of their start."""

    def catch_up(self) -> None:
        """Make the copies that follow wait for the last fence."""
        ...

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None: ...

    def mark(self, slot: int) -> Callable[[], None]:
        """Return a function that waits until all copies started so far are done.

        A new mark replaces the slot's last one, whose function must not be called any more.
        """
        ...


class Device(Protocol):
    """The operations that a ring needs of a device: pinned memory, streams and fences."""

    def pin(self, size_bytes: int) -> torch.Tensor: ...
    def unpin(self, memory: torch.Tensor) -> None: ...
    def sending(self, slots: int) -> Sending: ...
    def fence(self) -> None: ...


class TorchRing:
    """A ring in Python. See `lanes.Ring`."""

    def __init__(self, device: Device, slots: int, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self._device = device
        self._slots = slots

    def fence(self) -> None:
        self._device.fence()

    def lane(self) -> TorchLane:
        return TorchLane(self._device, self._slots, self.slot_bytes)

    def close(self) -> None:
        """Do nothing, as slots belong to the lanes."""


class TorchLane:
    """A lane in Python. See `lanes.RingLane`. Slots are pinned at their first use."""

    def __init__(self, device: Device, slots: int, slot_bytes: int) -> None:
        self._device = device
        self._slot_bytes = slot_bytes
        self._sending = _translated(lambda: device.sending(slots))
        self._slots: list[torch.Tensor | None] = [None] * slots
        self._marks: list[Callable[[], None] | None] = [None] * slots
        self.sent = 0

    def copy(self, image: Image, start: int, total: int, pieces: Sequence[Piece[Target]]) -> bool:
        del image, start, total, pieces
        return False

    def gather(self, parts: Sequence[Readable]) -> bool:
        del parts
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
            slot = self._slots[place] = _translated(lambda: self._device.pin(self._slot_bytes))
        return slot

    def send(self, skip: int, total: int, pieces: Sequence[Piece[Target]]) -> None:
        slot = self._free_slot()
        mark = _translated(lambda: self._start(slot[skip : skip + total], pieces))
        self._marks[self.sent % len(self._slots)] = mark
        self.sent += 1

    def _start(self, source: torch.Tensor, pieces: Sequence[Piece[Target]]) -> Callable[[], None]:
        self._sending.catch_up()
        at = 0
        for target, start, stop in pieces:
            for flat in target.flats(start, stop):
                self._sending.copy(flat, source[at : at + flat.numel()])
                at += flat.numel()
        return self._sending.mark(self.sent % len(self._slots))

    def wait(self, sent: int) -> None:
        if sent > max(0, self.sent - len(self._slots)):
            mark = self._marks[(sent - 1) % len(self._slots)]
            if mark is not None:
                _translated(mark)

    def close(self) -> None:
        slots, self._slots = self._slots, []
        try:
            for mark in self._marks:
                if mark is not None:
                    _translated(mark)
        finally:
            for slot in slots:
                if slot is not None:
                    self._device.unpin(slot)


def _translated(call: Callable[[], T]) -> T:
    try:
        return call()
    except RuntimeError as error:
        raise CudaFailure(str(error).partition("\n")[0]) from error


class CudaDevice:
    """CUDA through torch.

    Slots are ordinary memory that is registered with CUDA. torch's own pinned memory is not used,
    because torch would cache it for the process's life.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._order = _cuda.Stream(device)
        """A stream that waits for each fence's stream, and does nothing else."""
        self._fence = _cuda.Event()
        """Stands for the work of callers' streams at all fences until now. A copy that waits for it
        also waits for earlier fences, on whatever stream."""
        self._fences = 0

    def pin(self, size_bytes: int) -> torch.Tensor:
        pages = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory = torch.frombuffer(pages, dtype=torch.uint8)
        _checked(_cuda.cudart().cudaHostRegister(memory.data_ptr(), size_bytes, 0))
        return memory

    def unpin(self, memory: torch.Tensor) -> None:
        with torch.cuda.device(self._device):  # any thread may call this
            _cuda.cudart().cudaHostUnregister(memory.data_ptr())

    def sending(self, slots: int) -> Sending:
        return _CudaSending(self, self._device, slots)

    def fence(self) -> None:
        self._order.wait_stream(torch.cuda.current_stream(self._device))
        self._fence.record(self._order)
        self._fences += 1

    def after_fence(self, stream: Any, seen: int) -> int:
        """Make a stream wait for the last fence, unless that is the one numbered `seen`.

        Returns:
            The last fence's number.
        """
        fences = self._fences
        if fences != seen:
            stream.wait_event(self._fence)
        return fences


def _checked(code: Any) -> None:
    if int(code):
        raise RuntimeError(f"CUDA error {int(code)} ({code})")


class _CudaSending:
    """A CUDA stream; constructing it makes it the current stream of the copying thread."""

    def __init__(self, device: CudaDevice, place: torch.device, slots: int) -> None:
        self._device = device
        torch.cuda.set_device(place)
        self._stream = _cuda.Stream(place)
        torch.cuda.set_stream(self._stream)
        self._marks = [_cuda.Event(blocking=True) for _ in range(slots)]
        self._fences = 0

    def catch_up(self) -> None:
        self._fences = self._device.after_fence(self._stream, self._fences)

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:
        to.copy_(source, non_blocking=True)

    def mark(self, slot: int) -> Callable[[], None]:
        event = self._marks[slot]
        event.record(self._stream)
        wait: Callable[[], None] = event.synchronize
        return wait
