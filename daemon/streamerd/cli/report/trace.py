"""Makes a trace of a report for ui.perfetto.dev: ranks and workers are processes, reads slices.

The format is that of Chrome's trace events; times are microseconds. Two slices of one thread must
lie apart or one within the other, since Perfetto drops slices that overlap otherwise. The times of
a report are rounded, so each slice is cut where the next one begins. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from streamerd.cli.report.course import bursts, runs, throughput
from streamerd.observe.document import LoadReport, ReadSpan, ReportDocument

Event = dict[str, Any]

_NAMES = {
    "memory": "waits for memory",
    "credentials": "waits for credentials",
    "blocks": "waits for blocks",
    "copying": "copies",
}


def trace(document: ReportDocument) -> dict[str, Any]:
    """The whole file, as JSON's own types."""
    events = [*_names(document), *_loads(document), *_reads(document.reads), *_rates(document)]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _names(document: ReportDocument) -> Iterator[Event]:
    yield _named("process_name", document.pid, 0, "streamerd")
    for pid in sorted({read.worker for read in document.reads}):
        yield _named("process_name", pid, 0, f"fetch worker {pid}")
    for pid in sorted({load.pid for load in document.loads} - {document.pid}):
        labels = {load.label or str(pid) for load in document.loads if load.pid == pid}
        yield _named("process_name", pid, 0, ", ".join(sorted(labels)))
    for load in document.loads:
        yield _named("thread_name", load.pid, load.number, f"load {load.number}: {load.source}")


def _named(kind: str, pid: int, thread: int, name: str) -> Event:
    return {"ph": "M", "name": kind, "pid": pid, "tid": thread, "args": {"name": name}}


def _slice(name: str, pid: int, thread: int, began_s: float, ended_s: float, **told: Any) -> Event:
    began = round(began_s * 1e6)
    return {
        "ph": "X", "name": name, "pid": pid, "tid": thread,
        "ts": began, "dur": max(1, round(ended_s * 1e6) - began), "args": told,
    }  # fmt: skip


def _apart(slices: Iterable[Event], stop: float = float("inf")) -> Iterator[Event]:
    """Slices of one thread, each cut where the next one begins, and all of them at `stop`."""
    ordered = sorted(slices, key=lambda event: event["ts"])
    ends = [*(event["ts"] for event in ordered[1:]), stop]
    for event, end in zip(ordered, ends, strict=True):
        dur = min(event["dur"], min(end, stop) - event["ts"])
        if dur > 0:
            yield event | {"dur": dur}


def _loads(document: ReportDocument) -> Iterator[Event]:
    for load in document.loads:
        whole = _slice(
            f"{load.kind} {load.source}", load.pid, load.number, load.opened_at_s,
            load.opened_at_s + load.seconds, **_figures(load),
        )  # fmt: skip
        yield whole
        within = (
            _slice(_NAMES[run.phase], load.pid, load.number, run.began_s, run.ended_s)
            for run in runs(load)
        )
        yield from _apart(within, whole["ts"] + whole["dur"])


def _figures(load: LoadReport) -> dict[str, Any]:
    names = ("outcome", "served_bytes", "read_bytes", "peer_bytes", "resident_bytes",
             "shared_bytes", "error")  # fmt: skip
    return {name: getattr(load, name) for name in names}


def _reads(reads: tuple[ReadSpan, ...]) -> Iterator[Event]:
    lanes: dict[tuple[int, int], list[Event]] = {}
    for read in reads:
        lanes.setdefault((read.worker, read.thread), []).append(
            _slice(
                "from a node" if read.from_node else "read",
                read.worker, read.thread, read.began_s, read.ended_s,
                size_bytes=read.size_bytes, load=read.load,
            )
        )  # fmt: skip
    for lane in lanes.values():
        yield from _apart(lane)


def _rates(document: ReportDocument) -> Iterator[Event]:
    for burst in bursts(document):
        for point in throughput(burst):
            told = {"read": round(point.read / 1e9, 3), "served": round(point.served / 1e9, 3)}
            yield {
                "ph": "C", "name": "GB/s", "pid": document.pid, "tid": 0,
                "ts": round(point.at_s * 1e6), "args": told,
            }  # fmt: skip
