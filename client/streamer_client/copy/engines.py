"""How bytes get from a feed into a destination's memory on each kind of device.

This is the border between planning and copying: a `CopyEngine` copies one run of a block at a time,
in any of the copier's threads. `HostEngine` lets the kernel copy straight into the destination's
memory. `StagedEngine` copies through one reused buffer per thread and waits for each copy; it
serves devices that offer nothing better. CUDA has a ring (`ring/engine.py`). `engine_for` chooses
among them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import Any, Final, Protocol

import torch

from streamer_client.copy.destination import Target, host_memory
from streamer_client.copy.feed import Feed
from streamer_client.copy.host_gather import HostGather
from streamer_client.copy.plan import CopyRun
from streamer_client.copy.ring.engine import cuda_engine
from streamer_client.copy.slice import GatherEngine

STAGE_BYTES: Final = 8 << 20
ARRIVED: Final = 0
"""The ticket for bytes that were in place when `copy` returned."""


class CopyEngine(Protocol):
    """Copies runs of blocks into targets.

    The copier's threads call `enter`, `copy` and `leave`; the caller's thread calls the rest.
    """

    @property
    def threads(self) -> int:
        """How many copying threads the engine wants."""
        ...

    def fence(self) -> None:
        """Order later copies after the work that is queued on the caller's device now.

        The caller calls this after allocating destinations, since that work may still use their
        memory.
        """
        ...

    def enter(self) -> None:
        """Prepare the calling thread, which is about to copy, for copying. Raises nothing."""
        ...

    def copy(self, feed: Feed, shard: int, run: CopyRun[Target]) -> int:
        """Fill the run's pieces. Once this returns, the block may be consumed.

        Returns:
            A ticket for `settle`; it grows with each copy of the same thread.

        Raises:
            CopyFailed: the device failed.
        """
        ...

    def settle(self, ticket: int) -> None:
        """Wait until the bytes of a copy, and of its thread's earlier copies, have arrived.

        Raises:
            CopyFailed: the device failed.
        """
        ...

    def leave(self) -> None:
        """End copying in the calling thread; on return, all that it sent has arrived or failed."""
        ...

    def close(self) -> None:
        """Free the engine's resources, perhaps after this returns; all threads have left before."""
        ...


class SynchronousEngine:
    """The base of engines whose bytes are in place when `copy` returns."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def fence(self) -> None: ...

    def enter(self) -> None: ...

    def settle(self, ticket: int) -> None: ...

    def leave(self) -> None: ...

    def close(self) -> None: ...


class HostEngine(SynchronousEngine):
    """Lets the kernel write straight into the destinations' own memory."""

    def copy(self, feed: Feed, shard: int, run: CopyRun[Target]) -> int:
        buffers = [
            memory
            for piece in run.pieces
            for memory in piece.destination.memories(piece.start, piece.stop)
        ]
        feed.read_into(buffers, shard, run.start)
        return ARRIVED


class StagedEngine(SynchronousEngine):
    """Copies through one buffer per thread, into memory that a system call cannot write to."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._own = threading.local()

    def copy(self, feed: Feed, shard: int, run: CopyRun[Target]) -> int:
        stage, memory = self._stage()
        start = run.start
        for piece in run.pieces:
            for flat in piece.destination.flats(piece.start, piece.stop):
                for at in range(0, flat.numel(), STAGE_BYTES):
                    part = flat[at : at + STAGE_BYTES]
                    size = part.numel()
                    feed.read_into([memory[:size]], shard, start)
                    part.copy_(stage[:size])
                    start += size
        return ARRIVED

    def _stage(self) -> tuple[torch.Tensor, memoryview]:
        if not hasattr(self._own, "stage"):
            stage = torch.empty(STAGE_BYTES, dtype=torch.uint8)
            self._own.stage = stage, host_memory(stage)
        stage, memory = self._own.stage
        return stage, memory


class MixedEngine:
    """Fills host memory directly and other memory by another engine, as a model may have both."""

    def __init__(self, other: CopyEngine) -> None:
        self._host = HostEngine(other.threads)
        self._other = other
        self.threads = other.threads
        self.fence = other.fence
        self.enter = other.enter
        self.settle = other.settle
        self.leave = other.leave
        self.close = other.close

    def copy(self, feed: Feed, shard: int, run: CopyRun[Target]) -> int:
        ticket = ARRIVED
        for on_host, part in _split_by_place(run):
            engine = self._host if on_host else self._other
            ticket = max(ticket, engine.copy(feed, shard, part))
        return ticket


def _split_by_place(run: CopyRun[Target]) -> Iterator[tuple[bool, CopyRun[Target]]]:
    """The run, cut where its pieces change between host and device; True for parts on the host."""
    start = run.start
    for on_host, pieces in groupby(run.pieces, lambda one: one.destination.on_host):
        part: CopyRun[Any] = CopyRun(start)
        part.pieces.extend(pieces)
        start = part.stop = start + sum(piece.stop - piece.start for piece in part.pieces)
        yield on_host, part


def engine_for(devices: Collection[torch.device], feed: Feed) -> CopyEngine:
    """The engine for destinations on these devices.

    A single CUDA device gets a ring. Several devices in one process, and other kinds, are staged.
    """
    others = {device for device in devices if device.type != "cpu"}
    if not others:
        return HostEngine(feed.threads)
    if len(others) == 1 and (device := next(iter(others))).type == "cuda":
        return MixedEngine(cuda_engine(device, feed))
    return MixedEngine(StagedEngine(feed.threads))


def gather_engine_for(device: torch.device, feed: Feed) -> GatherEngine | None:
    """The engine that gathers slices on a device; None for a kind of device that has none."""
    if device.type == "cuda":
        return cuda_engine(device, feed)
    return HostGather(feed.threads) if device.type == "cpu" else None
