"""What a load can tell about itself afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Progress = Callable[[int, int], None]
"""Called in the reader's thread with `(bytes_done, bytes_total)`, the latter of all files."""


@dataclass(slots=True)
class LoadStats:
    """Figures of one checkpoint; they grow while tensors are read."""

    source: str
    mode: str
    """`daemon`, `direct`, `daemon+direct` when the daemon died on the way, or `page-cache`: see
    `Client.open`."""
    total_bytes: int
    """Size of all shards."""
    resident_bytes: int
    """Of these, in memory already when the checkpoint was opened."""
    loaded_bytes: int = 0
    """Tensor bytes handed out or copied so far; each pass counts."""
    copied_bytes: int = 0
    """Bytes that were copied for them, to a device or into private memory: less where tensors are
    views of shared bytes, or where `Checkpoint.slices` fetched no more than what was used."""
    tensors: int = 0
    seconds: float = 0.0
    """Spent waiting and copying, the caller's own work between two tensors left out."""
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
