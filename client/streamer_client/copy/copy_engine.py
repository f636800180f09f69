"""How bytes get from a feed into a destination's memory, per kind of device.

The seam between planning and copying: a `CopyEngine` carries out one run of a block at a time, in
any of the copier's threads. `HostEngine` has the kernel copy straight into the destination;
`StagedEngine` goes through one reused buffer a thread and waits for each copy, for devices that
have no better; CUDA has a ring (`ring/engine.py`), which `engine_for` chooses.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final, Protocol

import torch

from streamer_client.copy.block_jobs import Run
from streamer_client.copy.destination import Target, host_memory
from streamer_client.copy.feed import Feed

STAGE_BYTES: Final = 8 << 20
ARRIVED: Final = 0
"""The ticket of bytes that are there already."""


class CopyEngine(Protocol):
    """Copies runs.

    `enter`, `copy` and `leave` are called in copying threads, all else in the caller's.
    """

    @property
    def threads(self) -> int:
        """How many threads it wants."""
        ...

    def fence(self) -> None:
        """Memory was allocated: copy into it only after what the caller's device does now."""
        ...

    def enter(self) -> None:
        """The calling thread will copy: prepare what takes time. Raises nothing."""
        ...

    def copy(self, feed: Feed, shard: int, run: Run[Target]) -> int:
        """Fill the run's pieces. On return the block may be consumed.

        Returns:
            A ticket; later ones of the same thread are greater.

        Raises:
            CopyFailed: the device failed.
        """
        ...

    def settle(self, ticket: int) -> None:
        """Wait until the bytes of a copy, and of its thread's earlier ones, are there.

        Raises:
            CopyFailed: the device failed.
        """
        ...

    def leave(self) -> None:
        """The calling thread copies no more; what it sent has arrived or failed on return."""
        ...

    def close(self) -> None:
        """All threads have left; give everything back."""
        ...


class SynchronousEngine:
    """Base of engines whose bytes are there when `copy` returns."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def fence(self) -> None: ...

    def enter(self) -> None: ...

    def settle(self, ticket: int) -> None: ...

    def leave(self) -> None: ...

    def close(self) -> None: ...


class HostEngine(SynchronousEngine):
    """Straight into the destinations' own memory."""

    def copy(self, feed: Feed, shard: int, run: Run[Target]) -> int:
        buffers = [
            memory
            for piece in run.pieces
            for memory in piece.destination.memories(piece.start, piece.stop)
        ]
        feed.read_into(buffers, shard, run.start)
        return ARRIVED


class StagedEngine(SynchronousEngine):
    """Through a buffer that each thread keeps; for memory that a system call cannot write to."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._own = threading.local()

    def copy(self, feed: Feed, shard: int, run: Run[Target]) -> int:
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
    """Host memory directly, all else by another engine: a model may have parameters on both."""

    def __init__(self, other: CopyEngine) -> None:
        self._host = HostEngine(other.threads)
        self._other = other
        self.threads = other.threads
        self.fence = other.fence
        self.enter = other.enter
        self.settle = other.settle
        self.leave = other.leave
        self.close = other.close

    def copy(self, feed: Feed, shard: int, run: Run[Target]) -> int:
        ticket = ARRIVED
        for on_host, part in _by_place(run):
            engine = self._host if on_host else self._other
            ticket = max(ticket, engine.copy(feed, shard, part))
        return ticket


def _by_place(run: Run[Target]) -> Iterator[tuple[bool, Run[Target]]]:
    """The run in parts that lie on the host, or do not."""
    start = run.start
    for on_host, pieces in groupby(run.pieces, lambda one: one.destination.on_host):
        part: Run[Any] = Run(start)
        part.pieces.extend(pieces)
        start = part.stop = start + sum(piece.stop - piece.start for piece in part.pieces)
        yield on_host, part
