"""A report as text, as a trace and as a page, made from one invented document without I/O."""

from __future__ import annotations

import io
import json
import re

import msgspec
import pytest
from rich.console import Console, RenderableType

from streamer_client.contract.errors import ProtocolMismatch
from streamerd.cli.report.course import BINS, bursts, runs, spent_s, throughput
from streamerd.cli.report.page import html, view
from streamerd.cli.report.text import load_in_full, table_of
from streamerd.cli.report.trace import trace
from streamerd.observe.document import LoadReport, ReadSpan, ReportDocument, Sample, parse_report

GIB = 1 << 30
EVIL = "</script><script>alert(1)</script>\x1b[2J"


def load(number: int, opened_at_s: float, **changes: object) -> LoadReport:
    """A load of two seconds: it waits half a second for memory and half a second for blocks, and
    copies for one.
    """
    samples = (
        Sample(0.0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0),
        Sample(0.5, 0, 0, 0, 0.0, 0.0, 0.5, 0.0),
        Sample(1.0, GIB, GIB, 0, 0.5, 0.0, 0.5, 0.0),
        Sample(2.0, GIB, 2 * GIB, 2 * GIB, 0.5, 1.0, 0.5, 0.0),
    )
    told: dict[str, object] = {
        "number": number, "kind": "load", "outcome": "ended", "source": "/models/m",
        "store": "file", "pid": 800 + number, "uid": 1000, "label": f"rank {number}", "shards": 2,
        "size_bytes": 2 * GIB, "opened_at_s": opened_at_s, "seconds": 2.0, "resident_bytes": GIB,
        "read_bytes": GIB, "shared_bytes": 0, "served_bytes": 2 * GIB, "samples": samples,
    }  # fmt: skip
    return LoadReport(**(told | changes))  # type: ignore[arg-type]  # each field has a type of its own


def document(*loads: LoadReport) -> ReportDocument:
    reads = tuple(
        ReadSpan(each.opened_at_s + 0.5, each.opened_at_s + 1.0, 70, 71, GIB, each.number)
        for each in loads
    )
    return ReportDocument(version="1", pid=7, made_at_s=1e9, loads=loads, reads=reads)


def _text(shown: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=100, highlight=False, markup=False)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def test_the_document_survives_the_wire_and_a_strange_one_is_refused() -> None:
    made = document(load(1, 100.0))
    assert parse_report(json.loads(json.dumps(made.body()))) == made
    with pytest.raises(ProtocolMismatch, match="install the same version"):
        parse_report({"version": "1"})


# --- what follows from it -------------------------------------------------------------------------


def test_runs_follow_each_other_and_add_up_to_what_was_spent() -> None:
    one = load(1, 100.0)
    found = runs(one)
    assert [(run.phase, run.began_s, run.ended_s) for run in found] == [
        ("memory", 100.0, 100.5), ("blocks", 100.5, 101.0), ("copying", 101.0, 102.0),
    ]  # fmt: skip
    assert spent_s(one) == {"memory": 0.5, "credentials": 0.0, "blocks": 0.5, "copying": 1.0}


def test_loads_with_a_long_pause_between_them_are_apart() -> None:
    groups = bursts(document(load(1, 100.0), load(2, 101.0), load(3, 200.0)))
    assert [[one.number for one in group.loads] for group in groups] == [[1, 2], [3]]
    assert [[read.load for read in group.reads] for group in groups] == [[1, 2], [3]]
    assert (groups[0].began_s, groups[0].ended_s) == (100.0, 103.0)


def test_throughput_has_every_byte_once() -> None:
    (burst,) = bursts(document(load(1, 100.0), load(2, 101.0)))
    points = throughput(burst)
    width_s = 3.0 / BINS
    assert len(points) == BINS
    assert sum(point.read for point in points) * width_s == pytest.approx(2 * GIB)
    assert sum(point.served for point in points) * width_s == pytest.approx(4 * GIB)
    assert points[0].read == 0.0


# --- how it is shown ------------------------------------------------------------------------------


def test_a_row_for_each_load() -> None:
    shown = _text(table_of([load(1, 100.0), load(2, 101.0, outcome="failed", label="")]))
    first, second = shown.splitlines()[1:]
    expected = "1 /models/m rank 1 ended 2.00 1.07 GB/s 2.00 GiB 50% 50%"
    assert first.split() == expected.split()
    assert ("pid 802" in second, "failed" in second) == (True, True)
    assert _text(table_of([])) == "no load yet since the daemon's start\n"


def test_one_load_in_full() -> None:
    shown = _text(load_in_full(load(1, 100.0, error=EVIL)))
    assert "1.00 GiB from memory, 1.00 GiB read for it" in " ".join(shown.split())
    assert "0.500 s waiting for memory, 0.500 s waiting for blocks, 1.000 s copying" in shown
    assert "\x1b" not in shown


def test_what_other_nodes_sent_is_told_where_there_is_a_fleet() -> None:
    shown = " ".join(_text(load_in_full(load(1, 100.0, read_bytes=0, peer_bytes=GIB))).split())
    assert "0 B read for it, 1.00 GiB sent by other nodes, 0 B read for other loads" in shown
    assert "other nodes" not in _text(load_in_full(load(1, 100.0)))
    span = ReadSpan(100.5, 101.0, 70, 71, GIB, 1, from_node=True)
    made = trace(ReportDocument(version="1", pid=7, made_at_s=1e9, loads=(), reads=(span,)))
    assert [event["name"] for event in made["traceEvents"] if event["ph"] == "X"] == ["from a node"]


def test_the_trace_has_a_slice_for_each_run_and_read() -> None:
    made = trace(document(load(1, 100.0), load(2, 101.0)))
    assert json.loads(json.dumps(made)) == made
    slices = [event for event in made["traceEvents"] if event["ph"] == "X"]
    assert len(slices) == 2 * (1 + 3) + 2
    copies = [each for each in slices if each["name"] == "copies"]
    assert [(each["ts"], each["dur"], each["pid"]) for each in copies] == [
        (101_000_000, 1_000_000, 801), (102_000_000, 1_000_000, 802),
    ]  # fmt: skip
    named = {event["args"]["name"] for event in made["traceEvents"] if event["ph"] == "M"}
    assert {"streamerd", "fetch worker 70", "rank 1", "load 2: /models/m"} <= named


def test_slices_of_a_trace_never_overlap_in_part() -> None:
    awkward = tuple(
        Sample(round(at / 3, 4), at, at, at, round(at / 6 + 5e-5, 4), round(at / 6 + 5e-5, 4), 0, 0)
        for at in range(7)
    )
    told = document(load(1, 100.00004, samples=awkward), load(2, 101.3))
    late = told.reads[0]._replace(began_s=told.reads[0].ended_s - 1e-5)
    events = trace(msgspec.structs.replace(told, reads=(*told.reads, late)))["traceEvents"]
    for event in events:
        assert event["ph"] in "XMC"
        assert {type(event[key]) for key in ("pid", "tid")} == {int}
    open_ends: dict[tuple[int, int], list[int]] = {}
    slices = [event for event in events if event["ph"] == "X"]
    for event in sorted(slices, key=lambda event: (event["ts"], -event["dur"])):
        assert event["dur"] > 0
        ends = open_ends.setdefault((event["pid"], event["tid"]), [])
        while ends and ends[-1] <= event["ts"]:
            ends.pop()
        ends.append(event["ts"] + event["dur"])
        assert ends == sorted(ends, reverse=True), "Perfetto drops slices that overlap in part"


def test_the_page_is_whole_and_no_name_becomes_a_tag() -> None:
    page = html(document(load(1, 100.0, source=EVIL, label=EVIL)))
    assert page.count("<script") == page.count("</script>") == 2
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    (data,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page)
    assert json.loads(data) == json.loads(json.dumps(view(document(load(1, 100.0, source=EVIL,
                                                                        label=EVIL)))))  # fmt: skip
