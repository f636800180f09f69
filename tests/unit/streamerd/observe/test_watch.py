"""Records of loads in the daemon's loop: their beginning and end, their figures, and their log
lines.
"""

from __future__ import annotations

import logging

import msgspec
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.in_loop import in_loop
from tests.support.paper_daemon import BLOCK, PaperDaemon, file, paper_daemon

from streamer_client.contract import messages as m
from streamerd.answering.status import status_document
from streamerd.observe.document import LoadReport, parse_report
from streamerd.observe.metrics import registry
from streamerd.observe.watch import MOST_ENDED, MOST_READS
from streamerd.reading.totals import PEER_KIND
from streamerd.workers import jobs


async def report(daemon: PaperDaemon) -> tuple[LoadReport, ...]:
    client = daemon.connect(1000)
    client.say(m.GetReport(5))
    await daemon.work()
    return parse_report(client.hears(m.Report).body).loads


def metrics(daemon: PaperDaemon) -> dict[str, dict[str, float]]:
    """Samples by name, then by the values of their labels."""
    text = generate_latest(registry(daemon.parts.observed())).decode()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[",".join(sample.labels.values())] = sample.value
    return found


@in_loop
async def test_a_load_is_told_from_its_open_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with paper_daemon() as daemon:
        client, one = daemon.connect(1000), file(1)
        client.open(one)
        await daemon.work()
        (running,) = await report(daemon)
        assert [number for _read, number in daemon.parts.watch.reads] == [1, 1, 1]
        assert (running.outcome, running.read_bytes) == ("running", 3 * BLOCK)
        client.say(m.Consumed(1, ((0, 0, 3),)))  # type: ignore[arg-type]  # a BlockRange is a tuple
        client.say(m.Close(1))
        await daemon.work()
        (ended,) = await report(daemon)
        assert (ended.outcome, ended.source, ended.store) == ("ended", "/world", "file")
        assert (ended.shards, ended.size_bytes, ended.uid) == (1, 3 * BLOCK, 1000)
        assert (ended.read_bytes, ended.served_bytes, ended.shared_bytes) == (
            3 * BLOCK, 3 * BLOCK, 0,
        )  # fmt: skip
        assert ended.samples[-1].consumed_bytes == 3 * BLOCK
    lines = [record.getMessage() for record in caplog.records]
    assert sum("event=load_opened source=/world load=1 " in line for line in lines) == 1
    (line,) = (line for line in lines if "event=load_ended" in line)
    assert f"served_bytes={3 * BLOCK} read_bytes={3 * BLOCK} from_memory_bytes=0" in line


@in_loop
async def test_what_others_read_is_told_apart() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        first, second = daemon.connect(1), daemon.connect(1)
        first.open(one)
        second.open(one)
        await daemon.work()
        third = daemon.connect(1)
        third.open(one)
        await daemon.work()
        for client in (first, second, third):
            client.say(m.Close(1))
        await daemon.work()
        loads = await report(daemon)
        assert sum(load.read_bytes for load in loads) == 3 * BLOCK
        assert sum(load.shared_bytes for load in loads[:2]) == 3 * BLOCK
        assert loads[2].resident_bytes == 3 * BLOCK
        assert metrics(daemon)["streamerd_load_bytes_total"] == {
            "memory": 3 * BLOCK, "source": 3 * BLOCK, "other_load": 3 * BLOCK, "other_node": 0,
        }  # fmt: skip


@in_loop
async def test_failed_gone_and_refused_loads(caplog: pytest.LogCaptureFixture) -> None:
    async with paper_daemon() as daemon:
        broken, fine, refused = file(1), file(2), file(3)
        broken.broken, refused.refusal = True, "may not be read"
        client = daemon.connect(1)
        client.open(broken)
        await daemon.work()
        client.say(m.Close(1))
        await daemon.work()
        other = daemon.connect(1)
        other.open(fine)
        await daemon.answer(jobs.Examine)
        daemon.parts.sessions.end(other.session, "process ended")
        await daemon.work()
        daemon.connect(1).open(refused)
        await daemon.work()
        assert [load.outcome for load in await report(daemon)] == ["failed", "gone"]
        told = metrics(daemon)
        assert told["streamerd_loads_total"] == {"load,failed": 1, "load,gone": 1}
        assert told["streamerd_errors_total"] == {"source": 1}
        assert told["streamerd_requests_refused_total"] == {"source": 1}
    levels = {record.getMessage().split()[0]: record.levelname for record in caplog.records}
    assert levels["event=load_failed"] == "ERROR"
    assert levels["event=load_gone"] == "WARNING"
    assert levels["event=request_refused"] == "WARNING"


@in_loop
async def test_a_client_that_leaves_with_all_it_wanted_has_ended_its_load() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(1)
        client.open(file(1))
        await daemon.work()
        daemon.parts.sessions.end(client.session, "said goodbye")
        await daemon.work()
        (load,) = await report(daemon)
        assert load.outcome == "ended"


@in_loop
async def test_a_prefetch_has_one_line_when_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with paper_daemon() as daemon:
        client = daemon.connect(1)
        client.say(m.Prefetch(1, "/world", client.hand_over(file(1))))
        await daemon.work()
        (load,) = await report(daemon)
        assert (load.kind, load.outcome, load.label) == ("prefetch", "ended", "prefetch")
    assert sum("event=prefetch" in record.getMessage() for record in caplog.records) == 1


@in_loop
async def test_a_waiting_load_is_counted_by_what_it_waits_for() -> None:
    async with paper_daemon(limit_blocks=8) as daemon:
        clients = [daemon.connect(1) for _ in range(9)]
        for number, client in enumerate(clients):
            client.open(file(number + 1, blocks=4), hold=False)
        await daemon.work()
        waiting = len(daemon.parts.model.waiting)
        assert waiting > 0
        assert metrics(daemon)["streamerd_loads_waiting"]["memory"] == waiting


@in_loop
async def test_metrics_and_status_tell_the_same() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(1)
        client.open(file(1), file(2))
        await daemon.work()
        told = metrics(daemon)
        status = status_document(daemon.parts.facts)
        for name, value in (
            ("source_read_bytes_total", status.totals.source_read_bytes),
            ("source_requests_total", status.totals.source_requests),
            ("served_bytes_total", status.totals.served_bytes),
            ("block_hits_total", status.totals.block_hits),
            ("block_misses_total", status.totals.block_misses),
            ("retries_total", status.totals.retries),
            ("memory_used_bytes", status.memory.used_bytes),
            ("memory_limit_bytes", status.memory.limit_bytes),
            ("block_read_seconds_count", status.totals.source_requests),
        ):
            assert sum(told[f"streamerd_{name}"].values()) == value, name


@in_loop
async def test_what_is_remembered_is_bounded() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(1)
        for _ in range(MOST_ENDED + 9):
            client.open(file(1))
            await daemon.work()
            client.say(m.Close(1))
            client.say(m.Drop(client.transfers))
            await daemon.work()
        watch = daemon.parts.watch
        assert len(watch.ended) == MOST_ENDED
        assert len(watch.running) == 0
        assert [record.load for record in watch.ended] == [None] * MOST_ENDED
        assert watch.reads.maxlen == MOST_READS


@in_loop
async def test_what_other_nodes_sent_is_no_read_of_the_source() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(1)
        client.open(file(1))
        await daemon.work()
        totals = daemon.parts.read_totals
        read, _number = daemon.parts.watch.reads[0]
        (running,) = daemon.parts.watch.running.values()
        running.read_bytes -= 2 * BLOCK  # as if another node had sent two blocks
        for _block in range(2):
            totals.add(msgspec.structs.replace(read, kind=PEER_KIND, size_bytes=BLOCK))
        client.say(m.Close(1))
        await daemon.work()
        (ended,) = await report(daemon)
        assert (ended.read_bytes, ended.peer_bytes, ended.shared_bytes) == (BLOCK, 2 * BLOCK, 0)
        assert metrics(daemon)["streamerd_load_bytes_total"] == {
            "memory": 0, "source": BLOCK, "other_load": 0, "other_node": 2 * BLOCK,
        }  # fmt: skip
        assert ended.served_bytes == 3 * BLOCK
        kinds = [read.kind for read, _number in daemon.parts.watch.reads]
        assert kinds == ["file"] * 3 + [PEER_KIND] * 2
