"""The answer to `GetReport`: what is remembered of loads and reads, as the contract's document.

Runs in the daemon's loop, and only reads.
"""

from __future__ import annotations

import os

from streamerd import __version__
from streamerd.observe.document import ReadSpan, ReportDocument
from streamerd.observe.watch import Watch
from streamerd.reading.totals import Read


def report_document(watch: Watch, now_s: float, unix_time_s: float) -> ReportDocument:
    """Everything that `report` tells.

    Args:
        watch: the loads and reads.
        now_s: by the clock of the reads.
        unix_time_s: the same moment by the calendar's clock.
    """
    records = sorted([*watch.ended, *watch.running.values()], key=lambda record: record.number)
    shift_s = unix_time_s - now_s
    return ReportDocument(
        version=__version__,
        pid=os.getpid(),
        made_at_s=round(unix_time_s, 4),
        loads=tuple(record.report() for record in records),
        reads=tuple(_span(read, number, shift_s) for read, number in watch.reads),
    )


def _span(read: Read, number: int, shift_s: float) -> ReadSpan:
    return ReadSpan(
        round(read.began_s + shift_s, 5), round(read.ended_s + shift_s, 5),
        read.worker, read.thread, read.size_bytes, number,
    )  # fmt: skip
