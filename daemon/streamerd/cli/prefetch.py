"""`streamerctl prefetch`: asks for a prefetch, and polls the status to show how far it is."""

from __future__ import annotations

import argparse
import time
from typing import Final, NamedTuple

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from streamer_client.connecting.requests import Prefetching
from streamer_client.contract.errors import SourceError
from streamer_client.contract.sizes import format_size, shards_word
from streamer_client.contract.status import ShardState, StatusDocument
from streamerd.cli.request import Requester
from streamerd.cli.source_name import absolute_source, public_source
from streamerd.cli.status import asked_status
from streamerd.cli.terminal import DONE, console, one_line

POLL_S: Final = 0.25


class PrefetchProgress(NamedTuple):
    """How far a prefetch has come."""

    resident_bytes: int
    failures: tuple[str, ...]
    finished: bool


def progress_of(status: StatusDocument, prefetching: Prefetching) -> PrefetchProgress:
    """Read a prefetch's progress out of a status.

    A shard that is not listed any more was evicted after it came in, or never had a resident block;
    in both cases the command does not wait for it.
    """
    listed = status.shards()
    shards = [listed[one] for one in prefetching.ids if one in listed]
    resident_bytes = sum(shard.resident_bytes for shard in shards)
    failures = tuple(
        f"{shard.uri}: {shard.error}" for shard in shards if shard.state == ShardState.FAILED
    )
    busy = any(shard.state in (ShardState.QUEUED, ShardState.STREAMING) for shard in shards)
    return PrefetchProgress(
        resident_bytes, failures, not busy or resident_bytes >= prefetching.total_bytes
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask for a prefetch, and wait for it unless told not to."""
    out = console()
    source = public_source(arguments.source)
    with Requester(arguments.socket) as requester:
        prefetching = requester.prefetch(
            absolute_source(arguments.source),
            arguments.pattern,
            pin=arguments.pin,
            limit_bytes=arguments.memory_limit,
        )
        what = f"{shards_word(len(prefetching.ids))}, {format_size(prefetching.total_bytes)}"
        if arguments.no_wait:
            out.print(f"prefetching {one_line(source)}: {what}; see `streamerctl status`")
            return DONE
        began_s = time.monotonic()
        try:
            last = _wait(requester, prefetching, out)
        except KeyboardInterrupt:
            out.print(
                f"the daemon goes on with {one_line(source)}: {what}; `streamerctl status` shows "
                "how far it is, and `streamerctl evict` drops it once it is there",
                soft_wrap=True,
            )
            raise
    if last.failures:
        raise SourceError("prefetch failed: " + "; ".join(last.failures))
    seconds = time.monotonic() - began_s
    told = f"{what}, {format_size(last.resident_bytes)} in memory, {seconds:.1f} s"
    out.print(f"{one_line(source)}: {told}")
    return DONE


def _wait(requester: Requester, prefetching: Prefetching, out: Console) -> PrefetchProgress:
    bar = Progress(
        TextColumn("prefetch"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )
    with bar:
        task = bar.add_task("prefetch", total=prefetching.total_bytes)
        while True:
            progress = progress_of(asked_status(requester), prefetching)
            bar.update(task, completed=progress.resident_bytes)
            if progress.finished or progress.failures:
                return progress
            time.sleep(POLL_S)
