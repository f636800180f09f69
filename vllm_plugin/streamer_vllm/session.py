"""One load from a source: client, checkpoint, progress bar, and the log line at its end.

The two loaders share this module. Runs in the rank's own thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from tqdm.auto import tqdm

from streamer_client.checkpoint import Checkpoint
from streamer_client.launch import open_client
from streamer_client.stats import LoadStats, Progress
from streamer_vllm.log_lines import join_vllms_log
from streamer_vllm.options import Options
from streamer_vllm.ranks import data_parallel_rank, label
from streamer_vllm.versions import bar_format, bar_wanted

logger = logging.getLogger(__name__)

LOADED_LINE: Final = (
    "event=loaded dp_rank=%d source=%s bytes=%d copied=%d seconds=%.3f gb_per_s=%.2f "
    "from_memory=%.0f%% via=%s socket=%s"
)
"""The line that each rank logs after a successful load."""

BAR: Final = "Loading safetensors using streamerd"
DIRECT: Final = "direct"


@contextmanager
def opened(
    options: Options,
    source: str,
    *,
    pattern: str | None = None,
    files: Sequence[str] | None = None,
    owners: Mapping[str, str] | None = None,
    hold: bool,
    bar: bool,
) -> Iterator[Checkpoint]:
    """Open the checkpoint for the time of a load, and log the load's figures if it succeeds."""
    join_vllms_log()
    start = time.perf_counter()
    via: list[Callable[[], str]] = []
    with (
        progress_bar(lambda: via[0]() if via else "", wanted=bar) as progress,
        open_client(options.mode, options.socket, label=label()) as client,
        client.open(
            source,
            pattern,
            files,
            owners=owners,
            page_cache=True,
            progress=progress,
            **options.load_arguments(source, hold=hold),
        ) as checkpoint,
    ):
        via.append(lambda: checkpoint.stats.mode)
        yield checkpoint
        stats, socket = checkpoint.stats, client.socket
    _report(stats, time.perf_counter() - start, socket)


def _report(stats: LoadStats, seconds: float, socket: str | None) -> None:
    logger.info(
        LOADED_LINE,
        data_parallel_rank(),
        stats.source,
        stats.loaded_bytes,
        stats.copied_bytes,
        seconds,
        stats.loaded_bytes / max(seconds, 1e-9) / 1e9,
        100 * stats.resident_bytes / max(stats.total_bytes, 1),
        stats.mode,
        socket or "-",
    )


@contextmanager
def progress_bar(via: Callable[[], str], *, wanted: bool) -> Iterator[Progress]:
    """Show vLLM's progress bar on rank 0, if `wanted`; yield what a client reports to.

    The bar appears with the first bytes. Its total is that of the files, whose headers are no
    tensor's bytes. So the end of a successful load fills the bar.

    Args:
        via: tells the way that the load takes, once the load has begun.
        wanted: whether vLLM wants progress bars.
    """
    bar: tqdm | None = None

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal bar
        if bar is None:
            bar = _bar(total_bytes, via(), shown=bar_wanted(wanted))
        bar.update(done_bytes - bar.n)

    try:
        yield report
        if bar is not None:
            report(bar.total, bar.total)
    finally:
        if bar is not None:
            bar.close()


def _bar(total_bytes: int, via: str, *, shown: bool) -> tqdm:
    return tqdm(
        desc=f"{BAR} via={DIRECT}" if via == DIRECT else BAR,
        total=total_bytes,
        unit="B",
        unit_scale=True,
        disable=not shown,
        bar_format=bar_format(),
        mininterval=2,
    )
