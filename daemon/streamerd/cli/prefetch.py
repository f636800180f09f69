"""`streamerctl prefetch`: bring a checkpoint in, and show how far it is by polling the status."""

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

from streamer_client.contract.errors import SourceError
from streamer_client.contract.messages import Accepted, Prefetch
from streamer_client.contract.sizes import format_size
from streamerd.cli.request import Requester
from streamerd.cli.source_name import absolute_source, environment_of, public_source
from streamerd.cli.status import status_body
from streamerd.cli.status_body import StatusBody, parse_status
from streamerd.cli.status_view import shards_word
from streamerd.cli.terminal import DONE, console, one_line

POLL_S: Final = 0.25


class PrefetchProgress(NamedTuple):
    """How far a prefetch is."""

    resident_bytes: int
    failures: tuple[str, ...]
    finished: bool


def progress_of(body: StatusBody, accepted: Accepted) -> PrefetchProgress:
    """Read a prefetch's progress out of a status.

    A shard that is not listed any more was evicted after it came in, or never held a byte.
    """
    listed = body.shards()
    shards = [listed[one] for one in accepted.ids if one in listed]
    resident_bytes = sum(shard.resident_bytes for shard in shards)
    failures = tuple(f"{shard.uri}: {shard.error}" for shard in shards if shard.state == "failed")
    busy = any(shard.state in ("queued", "streaming") for shard in shards)
    return PrefetchProgress(
        resident_bytes, failures, not busy or resident_bytes >= accepted.total_bytes
    )


def run(arguments: argparse.Namespace) -> int:
    """Ask for a prefetch, and wait for it unless told not to."""
    out = console()
    source = public_source(arguments.source)
    with Requester(arguments.socket) as requester:
        asked = absolute_source(arguments.source)
        with requester.handed_over((asked,), arguments.pattern) as transfer:
            request = Prefetch(
                requester.next_id(),
                source,
                transfer,
                arguments.pattern,
                arguments.pin,
                arguments.memory_limit,
                environment_of(asked),
            )
            accepted = requester.ask(request, Accepted)
        what = f"{shards_word(len(accepted.ids))}, {format_size(accepted.total_bytes)}"
        if arguments.no_wait:
            out.print(f"prefetching {one_line(source)}: {what}; see `streamerctl status`")
            return DONE
        began_s = time.monotonic()
        last = _wait(requester, accepted, out)
    if last.failures:
        raise SourceError("prefetch failed: " + "; ".join(last.failures))
    seconds = time.monotonic() - began_s
    told = f"{what}, {format_size(last.resident_bytes)} in memory, {seconds:.1f} s"
    out.print(f"{one_line(source)}: {told}")
    return DONE


def _wait(requester: Requester, accepted: Accepted, out: Console) -> PrefetchProgress:
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
        task = bar.add_task("prefetch", total=accepted.total_bytes)
        while True:
            progress = progress_of(parse_status(status_body(requester)), accepted)
            bar.update(task, completed=progress.resident_bytes)
            if progress.finished or progress.failures:
                return progress
            time.sleep(POLL_S)
