"""vLLM's progress bar, counting bytes. Runs in the thread that loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm
from vllm.model_executor.model_loader import weight_utils

from streamer_client.stats import Progress


@contextmanager
def progress_bar(*, wanted: bool) -> Iterator[Progress]:
    """A bar on rank 0, if `wanted`; yields what a client reports its progress to.

    The bar appears with the first bytes. The total is that of the files, and their headers are no
    tensor's bytes: so it is the end of a load that went well that fills it.
    """
    bar: tqdm | None = None

    def report(done_bytes: int, total_bytes: int) -> None:
        nonlocal bar
        if bar is None:
            bar = _bar(total_bytes, weight_utils.enable_tqdm(wanted))
        bar.update(done_bytes - bar.n)

    try:
        yield report
        if bar is not None:
            report(bar.total, bar.total)
    finally:
        if bar is not None:
            bar.close()


def _bar(total_bytes: int, wanted: bool) -> tqdm:
    return tqdm(
        desc="Loading safetensors using streamerd",
        total=total_bytes,
        unit="B",
        unit_scale=True,
        disable=not wanted,
        bar_format=getattr(weight_utils, "_BAR_FORMAT", None),  # lines, as vLLM's other bars
        mininterval=2,
    )
