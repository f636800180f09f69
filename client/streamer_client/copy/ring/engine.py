"""Copies to a GPU through a ring, in the copier's threads.

Owns the choice of the ring, each thread's lane, and the text of errors. A thread reads a block's
bytes into its own lane's slots and sends each slot. The block may be consumed as soon as its bytes
are read, while the slots are still on their way to the device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES
from streamer_client.copy.cut import Part
from streamer_client.copy.destination import Target
from streamer_client.copy.feed import Feed, Route
from streamer_client.copy.host_gather import read_rows
from streamer_client.copy.plan import CopyRun, Piece
from streamer_client.copy.ring import native
from streamer_client.copy.ring.lanes import CopyFailed, CudaFailure, Ring, RingLane, ShortImage
from streamer_client.copy.ring.shape import (
    SHAPE_ENV,
    SLOT_ALIGNMENT_BYTES,
    RingShape,
    near,
    parse_shape,
    pci_address,
    ranks_here,
    ring_shape,
    storage_shape,
)
from streamer_client.copy.ring.slice_queue import RingSliceQueue
from streamer_client.copy.ring.torch_ring import CudaDevice, TorchRing
from streamer_client.copy.slice import Readable
from streamer_client.copy.torch_state import current_stream_number

logger = logging.getLogger(__name__)

FREEING: Final = "streamer-free"
"""Name of the threads that free what closed engines had."""
LANE_SHIFT: Final = 40
"""A ticket is `lane number << LANE_SHIFT | slots that the lane had sent`; numbers begin at 1."""


class RingEngine:
    """A `CopyEngine` over a ring.

    Args:
        ring: moves the bytes; the engine closes it.
        threads: how many copying threads, and so lanes, to use.
        cores: the processors on which copying threads are to run; empty for any.
    """

    def __init__(self, ring: Ring, threads: int, cores: frozenset[int] = frozenset()) -> None:
        self.threads = threads
        self._ring = ring
        self._cores = cores
        self._own = threading.local()
        self._lock = threading.Lock()
        self._lanes: list[_OpenLane] = []
        self._failed: CudaFailure | None = None
        self._queue: RingSliceQueue | None = None
        if isinstance(ring, native.NativeRing) and threads <= native.MOST_LANES:
            self._queue = RingSliceQueue(ring.queue(), self._lane, self._settle)

    @property
    def queue(self) -> RingSliceQueue | None:
        """See `GatherEngine`; only the compiled ring has a queue."""
        return self._queue

    def fence(self) -> None:
        try:
            self._ring.fence()
        except CudaFailure as failure:
            raise CopyFailed(f"the GPU refuses an event: {failure.what}") from failure

    # --- copying threads -------------------------------------------------------------------------

    def enter(self) -> None:
        """Pin the thread's first slot while the first blocks are still being read."""
        with contextlib.suppress(CudaFailure):  # the first copy fails in the same way and raises
            lane, _ = self._lane()
            lane.slot()

    def copy(self, feed: Feed, shard: int, run: CopyRun[Target]) -> int:
        try:
            lane, number = self._lane()
            self._copy(lane, feed, shard, run)
        except CudaFailure as failure:
            raise _copy_failed(run, failure) from failure
        return number << LANE_SHIFT | lane.sent

    def _copy(self, lane: RingLane, feed: Feed, shard: int, run: CopyRun[Target]) -> None:
        image = feed.image(shard, run.start // feed.block_bytes)
        if image is not None:
            try:
                if lane.copy(image, run.start, run.stop - run.start, run.pieces):
                    return
            except ShortImage as error:
                raise DaemonUnavailable(
                    f"the slab of {feed.shards[shard].uri} ends before byte {run.stop}; "
                    "was it removed from /dev/shm?"
                ) from error
        for part in slot_parts(run, self._ring.slot_bytes):
            skip = part.start % SLOT_ALIGNMENT_BYTES
            total = part.stop - part.start
            feed.read_into([lane.slot()[skip : skip + total]], shard, part.start)
            lane.send(skip, total, part.pieces)

    def gather(self, parts: Sequence[Readable]) -> int:
        """Fill parts of slices from images. Threads and errors are as in `copy`.

        An error of several parts names the first; gathered alone, each part raises its own.
        """
        to, part, image = parts[0]
        try:
            lane, number = self._lane()
            try:
                if not lane.gather(parts):
                    for one in parts:
                        self._gather_by_slots(lane, one)
            except ShortImage as error:
                raise image.ended(to.told(part.start, part.stop)) from error
        except CudaFailure as failure:
            told = to.told(min(part.start + failure.at_bytes, part.stop - 1), part.stop)
            raise CopyFailed(f"copying {told} to the GPU failed: {failure.what}") from failure
        return number << LANE_SHIFT | lane.sent

    def _gather_by_slots(self, lane: RingLane, readable: Readable) -> None:
        to, part, image = readable
        for start in range(part.start, part.stop, self._ring.slot_bytes):
            stop = min(start + self._ring.slot_bytes, part.stop)
            read_rows(image, to.cut, Part(start, stop), lane.slot(), to.told(start, stop))
            lane.send(0, stop - start, [Piece(to, start, stop)])

    def _lane(self) -> tuple[RingLane, int]:
        own = self._own
        if not hasattr(own, "lane"):
            if self._cores:
                os.sched_setaffinity(0, self._cores)  # binds this thread and the pages it touches
            own.lane = self._ring.lane()
            with self._lock:
                self._lanes.append(_OpenLane(own.lane))
                own.number = len(self._lanes)
        return own.lane, own.number

    def leave(self) -> None:
        if not hasattr(self._own, "lane"):
            return
        lane = self._own.lane
        try:
            lane.wait(lane.sent)
        except CudaFailure as failure:
            self._failed = failure

    # --- the caller's thread ---------------------------------------------------------------------

    def settle(self, ticket: int) -> None:
        number = ticket >> LANE_SHIFT
        if number:
            self._settle(number, ticket & (1 << LANE_SHIFT) - 1)

    def _settle(self, number: int, sent: int) -> None:
        try:
            self._lanes[number - 1].wait(sent)
        except CudaFailure as failure:
            raise CopyFailed(
                f"copies to the GPU did not arrive: {failure.what}; an earlier operation on the "
                "device may be to blame"
            ) from failure

    def close(self) -> None:
        """Begin to free pinned memory and streams; everything has arrived before.

        The driver takes 10 ms for that, and nobody needs to wait: a thread does it.
        """
        try:
            threading.Thread(target=self._free, name=FREEING).start()
        except RuntimeError:  # the interpreter ends
            self._free()

    def _free(self) -> None:
        for lane in self._lanes:
            try:
                lane.close()
            except CudaFailure as failure:
                self._failed = self._failed or failure
        self._ring.close()
        if self._failed is not None:
            logger.warning(
                "event=ring_failed reason='copies to the GPU did not arrive: %s'", self._failed.what
            )


class _OpenLane:
    """A lane until it is closed, which frees the memory that `wait` would use."""

    def __init__(self, lane: RingLane) -> None:
        self._lane: RingLane | None = lane
        self._lock = threading.Lock()

    def wait(self, sent: int) -> None:
        """Wait as the lane does; in a closed lane, everything has arrived."""
        with self._lock:
            if self._lane is not None:
                self._lane.wait(sent)

    def close(self) -> None:
        with self._lock:
            lane, self._lane = self._lane, None
            if lane is not None:
                lane.close()


def slot_parts(run: CopyRun[Target], slot_bytes: int) -> Iterator[CopyRun[Any]]:
    """The run cut into parts that each fit a slot.

    The offset of a part's first byte from a page boundary is the same in its slot as in the shard.
    """
    start, parts = run.start, iter(run.pieces)
    piece = next(parts, None)
    while start < run.stop:
        part: CopyRun[Target] = CopyRun(start)
        stop = min(run.stop, start - start % SLOT_ALIGNMENT_BYTES + slot_bytes)
        while piece is not None and part.stop < stop:
            took = min(piece.stop - piece.start, stop - part.stop)
            target, first, last = piece
            part.pieces.append(Piece(target, first, first + took))
            part.stop += took
            piece = Piece(target, first + took, last) if first + took < last else next(parts, None)
        yield part
        start = stop


def _copy_failed(run: CopyRun[Target], failure: CudaFailure) -> CopyFailed:
    """The failure as an error that names the piece at which it happened."""
    at = 0
    told = "nothing"
    for target, start, stop in run.pieces:
        told = target.told(start + max(0, failure.at_bytes - at), stop)
        at += stop - start
        if failure.at_bytes < at:
            break
    return CopyFailed(f"copying {told} to the GPU failed: {failure.what}")


def cuda_engine(device: torch.device, feed: Feed) -> RingEngine:
    """The engine for one CUDA device, with a ring sized for this machine.

    Raises:
        ConfigError: `STREAMERD_RING` is malformed.
        CopyFailed: the device cannot be used.
    """
    allowed = frozenset(os.sched_getaffinity(0))
    cores = near(allowed, pci_address(device))
    shape = _shape(feed, len(allowed))
    try:
        ring = _ring(device, shape)
    except (CudaFailure, RuntimeError) as failure:
        raise CopyFailed(f"{device} cannot be copied to: {failure}") from failure
    return RingEngine(ring, shape.threads, cores if cores != allowed else frozenset())


def _shape(feed: Feed, cores: int) -> RingShape:
    chosen = os.environ.get(SHAPE_ENV)
    if chosen:
        return parse_shape(chosen)
    if feed.route is Route.DIRECT:
        return storage_shape(feed.threads, feed.block_bytes)
    if feed.route is Route.PAGE_CACHE:  # a slot that takes a whole block saves no request here
        return storage_shape(feed.threads, min(feed.block_bytes, DEFAULT_BLOCK_BYTES))
    return ring_shape(cores, ranks_here())


def _ring(device: torch.device, shape: RingShape) -> Ring:
    """The compiled ring if its library and CUDA's driver load, or else the one made of torch."""
    _, slots, slot_bytes = shape
    path = native.library_path()
    if path is not None:
        try:
            return native.NativeRing(
                native.load_library(path), _ordinal(device), slots, slot_bytes, _stream(device)
            )
        except native.NoLibrary as error:
            logger.warning("event=no_compiled_ring reason=%r", str(error))
    return TorchRing(CudaDevice(device), slots, slot_bytes)


def _ordinal(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _stream(device: torch.device) -> Callable[[], int]:
    return lambda: current_stream_number(device) or 0
