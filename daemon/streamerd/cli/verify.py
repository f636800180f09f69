"""`streamerctl verify`: has the daemon check the blocks in memory, and prints wrong ones."""

from __future__ import annotations

import argparse

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from streamer_client.contract.errors import SourceNotFound
from streamer_client.contract.messages import Finding, Verified, Verifying
from streamer_client.contract.sizes import format_size
from streamerd.cli.request import Requester
from streamerd.cli.source_name import absolute_source, public_source
from streamerd.cli.status import asked_status
from streamerd.cli.terminal import DONE, FAILED, console, one_line


def run(arguments: argparse.Namespace) -> int:
    """Verify one source, or each that has a resident block; returns 1 if any block is wrong."""
    with Requester(arguments.socket) as requester:
        if arguments.source is not None:
            sources = [absolute_source(arguments.source)]
        else:
            listed = asked_status(requester).sources
            sources = [each.uri for each in listed if any(s.resident_bytes for s in each.shards)]
        answers = []
        for source in sources:
            try:
                answer = _verified(requester, source, against_source=arguments.against_source)
            except SourceNotFound:
                if arguments.source is not None:
                    raise
                told = f"{one_line(source)}: not verified, it belongs to another user"
                console().print(told, soft_wrap=True, markup=False)
            else:
                answers.append(answer)
    if not sources:
        console().print("nothing in memory to verify")
    return FAILED if any(answer.findings for answer in answers) else DONE


def _verified(requester: Requester, source: str, *, against_source: bool) -> Verified:
    named = public_source(source)
    out = console()
    bar = Progress(
        TextColumn("verify"),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal,
    )
    with bar:
        task = bar.add_task("verify", total=None)

        def show(told: Verifying) -> None:
            bar.update(task, completed=told.done_bytes, total=told.total_bytes)

        answer = requester.verify(source, against_source=against_source, progress=show)
    out.print(summary(named, answer, against_source=against_source), soft_wrap=True, markup=False)
    for finding in answer.findings:
        out.print(told_finding(finding), style="red", soft_wrap=True, markup=False)
    return answer


def summary(source: str, answer: Verified, *, against_source: bool) -> str:
    """One line that says which blocks were compared, with what, and whether they were right."""
    what = "checksums and source" if against_source else "checksums"
    verdict = f"{len(answer.findings)} WRONG" if answer.findings else "right"
    line = f"{one_line(source)}: {format_size(answer.checked_bytes)} against {what}: {verdict}"
    if answer.skipped_bytes:
        line += f" ({format_size(answer.skipped_bytes)} left memory meanwhile)"
    return line


def told_finding(finding: Finding) -> str:
    """One line that says which bytes are wrong, and how."""
    where = f"block {finding.block}, bytes {finding.start}-{finding.stop}"
    return f"  {one_line(finding.uri)}: {where}: {one_line(finding.message)}"
