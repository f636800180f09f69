"""Parts for tests of rings: a device whose copies are done only when waited for, and targets."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import torch

from streamer_client.contract.errors import DaemonUnavailable, StreamerError
from streamer_client.copy.destination import Contiguous, Target, host_memory
from streamer_client.copy.feed import Route
from streamer_client.copy.plan import CopyRun, Piece
from streamer_client.copy.ring.engine import FREEING


class LazyDevice:
    """A `torch_ring.Device` in this machine's memory; `fail_next` fails the next copy."""

    def __init__(self) -> None:
        self.fences = 0
        self.pinned_bytes = 0
        self.fail_next = False

    def pin(self, size_bytes: int) -> torch.Tensor:
        self.pinned_bytes += size_bytes
        return torch.empty(size_bytes, dtype=torch.uint8)

    def unpin(self, memory: torch.Tensor) -> None:
        self.pinned_bytes -= memory.nbytes

    def sending(self, slots: int) -> LazySending:
        assert slots > 0
        return LazySending(self)

    def fence(self) -> None:
        self.fences += 1


class LazySending:
    def __init__(self, device: LazyDevice) -> None:
        self._device = device
        self._started: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.caught_up = 0

    def catch_up(self) -> None:
        self.caught_up = self._device.fences

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:
        assert self.caught_up == self._device.fences
        if self._device.fail_next:
            raise RuntimeError("CUDA error: an illegal memory access\nmore lines")
        self._started.append((to, source))

    def mark(self, slot: int) -> Callable[[], None]:
        del slot
        return self._finish

    def _finish(self) -> None:
        for to, source in self._started:
            to.copy_(source)
        self._started.clear()


_kept: list[torch.Tensor] = []
"""Targets that must live on, as lazy copies may be done after a test has dropped them."""


class Memory(Contiguous):
    """A `Target` in plain memory that counts as a device's."""

    on_host = False

    def __init__(self, size_bytes: int, name: str = "it") -> None:
        self.flat = torch.full((size_bytes,), 0xEE, dtype=torch.uint8)
        _kept.append(self.flat)
        self.left_bytes = size_bytes
        self.address = self.flat.data_ptr()
        self.name = name

    def told(self, start: int, stop: int) -> str:
        return f"bytes {start} to {stop} of {self.name}"

    @property
    def bytes(self) -> bytes:
        return bytes(host_memory(self.flat))


def run_over(targets: Sequence[Memory], start: int) -> CopyRun[Target]:
    """A run that fills these targets in turn with a shard's bytes from `start` on."""
    run: CopyRun[Any] = CopyRun(start)
    for target in targets:
        run.pieces.append(Piece(target, 0, target.left_bytes))
        run.stop += target.left_bytes
    return run


def cut(total: int, *edges: int) -> list[Memory]:
    """Targets of `total` bytes in all, cut at these edges."""
    return [Memory(b - a, f"tensor {a}") for a, b in pairwise((0, *edges, total))]


class OpenFile:
    """An `Image` of an open file."""

    stays = True

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ended(self, told: str) -> StreamerError:
        return DaemonUnavailable(f"the file ends before {told}")


@contextmanager
def stored_in_memory(data: bytes) -> Iterator[int]:
    """A descriptor of a file in memory with these bytes."""
    fd = os.memfd_create("shard")
    try:
        os.write(fd, data)
        yield fd
    finally:
        os.close(fd)


def wait_until_freed() -> None:
    """Wait until all closed engines have given everything back."""
    for thread in threading.enumerate():
        if thread.name == FREEING:
            thread.join()


class FileFeed:
    """A feed of one shard, which is read by system calls from `fd`, or else by `read_into`."""

    route = Route.DAEMON
    direct_bytes = 0

    def __init__(self, data: bytes, fd: int | None = None, block_bytes: int = 16 << 10) -> None:
        self.block_bytes = block_bytes
        self.threads = 2
        self.shards = [cast("Any", type("Shard", (), {"uri": "/the/shard"}))]
        self._data = data
        self._fd = fd

    def image(self, shard: int, block: int) -> OpenFile | None:
        assert (shard, block >= 0) == (0, True)
        return None if self._fd is None else OpenFile(self._fd)

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        assert shard == 0
        assert self._fd is None
        for buffer in buffers:
            buffer[:] = self._data[start : start + len(buffer)]
            start += len(buffer)
