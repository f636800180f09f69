"""How bytes get from a feed into a destination's memory, per kind of device.

The seam for faster engines: a `CopyEngine` carries out one run of a block at a time, in any of the
copier's threads. `HostEngine` has the kernel copy straight into the destination; `StagedEngine`
goes through one reused buffer a thread (pinned for CUDA) and waits for each copy: correct, not
fast.
"""

from __future__ import annotations

import threading
from typing import Final, Protocol

import torch

from streamer_client.block_jobs import Run
from streamer_client.destination import Destination, host_memory
from streamer_client.feed import Feed

STAGE_BYTES: Final = 8 << 20


class CopyEngine(Protocol):
    """Copies runs; thread-safe."""

    def copy(self, feed: Feed, shard: int, run: Run[Destination]) -> None:
        """Fill the run's pieces. On return they may be read, and the block may be consumed."""
        ...


class HostEngine:
    """Straight into the destinations' own memory."""

    def copy(self, feed: Feed, shard: int, run: Run[Destination]) -> None:
        buffers = [
            piece.destination.memory[piece.start : piece.stop]
            for piece in run.pieces
            if piece.destination.memory is not None
        ]
        feed.read_into(buffers, shard, run.start)


class StagedEngine:
    """Through a buffer that each thread keeps; for memory that a system call cannot write to."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._own = threading.local()

    def copy(self, feed: Feed, shard: int, run: Run[Destination]) -> None:
        stage, memory = self._stage()
        start = run.start
        for piece in run.pieces:
            for at in range(piece.start, piece.stop, STAGE_BYTES):
                size = min(STAGE_BYTES, piece.stop - at)
                feed.read_into([memory[:size]], shard, start)
                piece.destination.flat[at : at + size].copy_(stage[:size])
                start += size

    def _stage(self) -> tuple[torch.Tensor, memoryview]:
        if not hasattr(self._own, "stage"):
            stage = torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=self._pinned)
            self._own.stage = stage, host_memory(stage)
        stage, memory = self._own.stage
        return stage, memory


class MixedEngine:
    """Host memory directly, all else staged: a model may have parameters on both."""

    def __init__(self) -> None:
        self._host = HostEngine()
        self._staged = StagedEngine(pinned=torch.cuda.is_available())

    def copy(self, feed: Feed, shard: int, run: Run[Destination]) -> None:
        start = run.start
        for piece in run.pieces:
            part: Run[Destination] = Run(start)
            part.pieces.append(piece)
            engine = self._staged if piece.destination.memory is None else self._host
            engine.copy(feed, shard, part)
            start += piece.stop - piece.start


def engine_for(devices: set[str]) -> CopyEngine:
    """The engine for destinations on these kinds of device (`torch.device.type`)."""
    if devices <= {"cpu"}:
        return HostEngine()
    if "cpu" in devices:
        return MixedEngine()
    return StagedEngine(pinned="cuda" in devices)
