"""Makes the answer to `GetReport`: the records of loads and the last reads, as a document.

This module bounds the length of that answer. Records have times of the loop's clock. They become
unix times only here, and the same difference is added to all of them. Runs in the daemon's loop,
and only reads.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import Final

from streamerd import __version__
from streamerd.observe.document import ReadSpan, ReportDocument
from streamerd.observe.watch import Watch
from streamerd.reading.totals import PEER_KIND, Read

MOST_RUNNING: Final = 192
"""The most running loads that one answer tells. Users may open more, up to `MAX_LOADS` for each
client. With this many, an answer has less than 16 MB, half of `MAX_ANSWER_BYTES`, however long
their names are."""


def report_document(watch: Watch, now_s: float, unix_time_s: float) -> ReportDocument:
    """Everything that `report` tells.

    Args:
        watch: the records of loads, and the reads.
        now_s: the present time by the loop's clock, which the records use.
        unix_time_s: the same moment by the calendar's clock.
    """
    latest = list(islice(reversed(watch.running.values()), MOST_RUNNING))
    records = sorted([*watch.ended, *latest], key=lambda record: record.number)
    shift_s = unix_time_s - now_s
    return ReportDocument(
        version=__version__,
        pid=os.getpid(),
        made_at_s=round(unix_time_s, 4),
        loads=tuple(record.report(shift_s) for record in records),
        older_running=len(watch.running) - len(latest),
        reads=tuple(_span(read, number, shift_s) for read, number in watch.reads),
    )


def _span(read: Read, number: int, shift_s: float) -> ReadSpan:
    return ReadSpan(
        round(read.began_s + shift_s, 5), round(read.ended_s + shift_s, 5),
        read.worker, read.thread, read.size_bytes, number, read.kind == PEER_KIND,
    )  # fmt: skip
