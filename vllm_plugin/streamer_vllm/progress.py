"""vLLM's progress bar, counting bytes. Runs in the thread that loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm
from vllm.model_executor.model_loader import weight_utils

from streamer_client.stats import Progress


@contextmanager
def progress_bar(*, wanted: bool) -> Iterator[Progress]:
    """A bar on rank 0, if `wanted`; yields what a client reports its progress to."""
    bar = tqdm(
        desc="Loading safetensors using streamerd",
        total=0,
        unit="B",
        unit_scale=True,
        disable=not weight_utils.enable_tqdm(wanted),
        bar_format=getattr(weight_utils, "_BAR_FORMAT", None),
        mininterval=2,
    )

    def report(done_bytes: int, total_bytes: int) -> None:
        bar.total = total_bytes
        bar.update(done_bytes - bar.n)

    with bar:
        yield report
        if bar.total:  # headers are part of the files and of no tensor
            report(bar.total, bar.total)
