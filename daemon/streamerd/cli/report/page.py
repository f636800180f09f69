"""Makes one HTML page of a report, which needs no other file: it has the data and the drawing.

This module owns the data that the page is given; `page.html` draws it. Other people chose the names
of sources and the labels. So these reach the page as JSON in which no tag can begin, and are shown
as text. Pure.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Final

from streamerd.cli.report.course import Burst, bursts, runs, spent_s, throughput
from streamerd.observe.document import LoadReport, ReadSpan, ReportDocument

_PLACE: Final = "__REPORT__"
_FIGURES: Final = (
    "number", "kind", "outcome", "source", "label", "pid", "uid", "shards", "size_bytes",
    "seconds", "resident_bytes", "read_bytes", "peer_bytes", "shared_bytes", "served_bytes",
    "error",
)  # fmt: skip


def html(document: ReportDocument) -> str:
    """The whole page."""
    template = files("streamerd.cli.report").joinpath("page.html").read_text(encoding="utf-8")
    return template.replace(_PLACE, _embedded(view(document)))


def _embedded(value: object) -> str:
    """JSON for a `script` element: no `<` is left that could end it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def view(document: ReportDocument) -> dict[str, Any]:
    """The data to draw, as JSON's own types; times are seconds since the beginning of a burst."""
    return {
        "version": document.version,
        "pid": document.pid,
        "made_at_s": document.made_at_s,
        "bursts": [_drawn(burst) for burst in bursts(document)],
    }


def _drawn(burst: Burst) -> dict[str, Any]:
    return {
        "began_at_s": burst.began_s,
        "seconds": max(burst.ended_s - burst.began_s, 1e-3),
        "loads": [_load(load, burst.began_s) for load in burst.loads],
        "workers": _lanes(burst),
        "throughput": [
            [round(point.at_s - burst.began_s, 4), round(point.read), round(point.served)]
            for point in throughput(burst)
        ],
    }


def _load(load: LoadReport, began_s: float) -> dict[str, Any]:
    figures = {name: getattr(load, name) for name in _FIGURES}
    return figures | {
        "opened_s": round(load.opened_at_s - began_s, 4),
        "spent": spent_s(load),
        "runs": [
            [run.phase, round(run.began_s - began_s, 5), round(run.ended_s - began_s, 5)]
            for run in runs(load)
        ],
    }


def _lanes(burst: Burst) -> list[dict[str, Any]]:
    """One lane for each thread that read."""
    lanes: dict[tuple[int, int], list[ReadSpan]] = {}
    for read in burst.reads:
        lanes.setdefault((read.worker, read.thread), []).append(read)
    return [
        {
            "name": f"worker {worker} thread {thread}",
            "reads": [
                [round(read.began_s - burst.began_s, 5), round(read.ended_s - burst.began_s, 5),
                 read.size_bytes, read.load]
                for read in reads
            ],
        }
        for (worker, thread), reads in sorted(lanes.items())
    ]  # fmt: skip
