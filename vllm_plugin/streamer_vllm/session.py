"""One load from a source: client, checkpoint, progress bar, and the line that is logged at its end.

What the two loaders share. Runs in the rank's own thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from streamer_client.checkpoint import Checkpoint
from streamer_client.launch import open_client
from streamer_client.stats import LoadStats
from streamer_vllm.options import Options
from streamer_vllm.place import global_rank
from streamer_vllm.progress import progress_bar

log = logging.getLogger(f"vllm.{__name__}")  # vLLM configures what is below `vllm` only


@contextmanager
def opened(
    options: Options,
    source: str,
    *,
    pattern: str | None = None,
    files: Sequence[str] | None = None,
    hold: bool,
    bar: bool,
) -> Iterator[Checkpoint]:
    """The checkpoint, for the time of a load; logs what the load did if it succeeds."""
    rank = global_rank()
    start = time.perf_counter()
    with (
        progress_bar(wanted=bar) as progress,
        open_client(options.mode, options.socket, label=f"rank {rank}") as client,
        client.open(
            source,
            pattern,
            files,
            hold=hold,
            memory_limit=options.memory_limit_bytes,
            concurrency=options.concurrency_for(source),
            page_cache=True,
            progress=progress,
        ) as checkpoint,
    ):
        yield checkpoint
        stats, socket = checkpoint.stats, client.socket
    _report(rank, stats, time.perf_counter() - start, socket)


def _report(rank: int, stats: LoadStats, seconds: float, socket: str | None) -> None:
    log.info(
        "streamerd: loaded rank=%d bytes=%d copied=%d seconds=%.3f gb_per_s=%.2f "
        "from_memory=%.0f%% via=%s socket=%s",
        rank,
        stats.loaded_bytes,
        stats.copied_bytes,
        seconds,
        stats.loaded_bytes / max(seconds, 1e-9) / 1e9,
        100 * stats.resident_bytes / max(stats.total_bytes, 1),
        stats.mode,
        socket or "-",
    )
