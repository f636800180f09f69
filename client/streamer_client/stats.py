"""The figures that a load tells about itself afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Progress = Callable[[int, int], None]
"""Called in the reader's thread with `(bytes_done, bytes_total)`; the total is of all files."""


@dataclass(slots=True)
class LoadStats:
    """The figures of one checkpoint; they grow while tensors are read."""

    source: str
    mode: str
    """The way that the load took: `daemon`, `direct`, `page-cache`, or `daemon+direct` when the
    daemon died on the way; see `Client.open`."""
    total_bytes: int
    """Size of all shards."""
    resident_bytes: int
    """How many of `total_bytes` were in memory already when the checkpoint was opened."""
    loaded_bytes: int = 0
    """Tensor bytes handed out or copied so far, counted again in each pass."""
    copied_bytes: int = 0
    """Bytes that were copied to a device or into private memory. They are fewer than `loaded_bytes`
    where tensors are views, or where `Checkpoint.slices` fetched only the parts in use."""
    tensors: int = 0
    seconds: float = 0.0
    """Time spent waiting and copying, without the caller's own work between two tensors."""
    progress: Progress | None = field(default=None, repr=False)

    def loaded(self, size_bytes: int) -> None:
        self.tensors += 1
        self.loaded_bytes += size_bytes
        if self.progress is not None:
            self.progress(self.loaded_bytes, self.total_bytes)

    def copied(self, size_bytes: int) -> None:
        self.copied_bytes += size_bytes

    @contextmanager
    def timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start
