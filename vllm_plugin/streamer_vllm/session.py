"""One load from a source: client, checkpoint, progress bar, and the line that is logged at its end.

What the two loaders share. Runs in the rank's own thread.
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
"""What each rank logs of a load that went well."""

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
    """The checkpoint, for the time of a load; logs what the load did if it succeeds."""
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
    """VLLM's progress bar, counting bytes, on rank 0 if `wanted`; yields what a client reports to.

    The bar appears with the first bytes. The total is that of the files, and their headers are no
    tensor's bytes: so it is the end of a load that went well that fills it.

    Args:
        via: tells the way that the load takes, once it has begun.
        wanted: whether vLLM wants bars.
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
