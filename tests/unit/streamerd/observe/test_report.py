"""The document of `report` is bounded however long names are, and right after the clock was set."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from unittest import mock

import msgspec
import pytest
from tests.support.in_loop import in_loop
from tests.support.paper_daemon import BLOCK, PaperDaemon, file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.limits import MAX_ANSWER_BYTES, MAX_SOURCE_CHARACTERS
from streamerd.observe.document import ReportDocument, Sample, parse_report
from streamerd.observe.record import MOST_CHARACTERS, MOST_SAMPLES, Holder, Outcome, Record
from streamerd.observe.report import MOST_RUNNING, report_document
from streamerd.observe.watch import MOST_ENDED, MOST_READS, Watch
from streamerd.reading.totals import Read
from streamerd.state.events import LoadClosed, LoadKey, LoadOpened, ShardKey, ShardSpec

HOUR_S = 3600.0


class _Nobody:
    def opened(self, record: Record) -> None: ...
    def ended(self, record: Record, now_s: float) -> None: ...


async def report(daemon: PaperDaemon) -> ReportDocument:
    client = daemon.connect(1000)
    client.say(m.GetReport(5))
    await daemon.work()
    return parse_report(client.hears(m.Report).body)


@in_loop
async def test_a_clock_that_is_set_back_moves_all_times_together() -> None:
    now_s = time.time()
    async with paper_daemon() as daemon:
        client = daemon.connect(1000)
        client.open(file(1))
        await daemon.work()
        for step_s in (0.0, -HOUR_S, HOUR_S):
            with mock.patch("streamerd.parts.time.time", lambda step=step_s: now_s + step):
                told = await report(daemon)
                other = daemon.connect(1000)
                other.open(file(2))
                await daemon.work()
                told = await report(daemon)
            assert told.made_at_s == pytest.approx(now_s + step_s, abs=1e-3)
            opened = [load.opened_at_s for load in told.loads]
            assert opened == sorted(opened)
            assert all(0 <= told.made_at_s - at_s < 60 for at_s in opened)
            for read in told.reads:
                assert opened[read.load - 1] - 1e-3 <= read.began_s <= read.ended_s
            for load in told.loads:
                assert load.seconds >= 0
                assert all(one.at_s <= other.at_s for one, other in pairwise(load.samples))


def _watch(name: str) -> Watch:
    model = mock.Mock(loads={})
    return Watch(
        model, lambda _: Holder(7, 0, "x" * 100), lambda _: (name, "s3"), _Nobody(), lambda: 1.0
    )


def _opened(number: int) -> LoadOpened:
    shard = ShardSpec(ShardKey("1", str(number)), BLOCK)
    return LoadOpened(1.0, LoadKey("1", number), (shard,), ())


def test_an_answer_is_bounded_whatever_loads_are_called() -> None:
    name = "s3://b/" + "\U0001f9ff" * MAX_SOURCE_CHARACTERS + "/x.safetensors"
    watch = _watch(name)
    most = MOST_ENDED + MOST_RUNNING + 9
    watch.turned([_opened(number) for number in range(most)], [])
    for record in watch.running.values():
        record.error = "e" * MOST_CHARACTERS
        record.samples = [Sample(1e3 / 3, *[1 << 40] * 3, *[1e3 / 3] * 4)] * MOST_SAMPLES
    watch.turned([LoadClosed(1.0, LoadKey("1", number)) for number in range(MOST_ENDED)], [])
    for _ in range(MOST_READS):
        watch.read(Read(LoadKey("1", most - 1), "s3", 1 << 40, 1 << 40, 0.1, 0.2, 0.3, 7, 8))
    told = report_document(watch, 1.0, 1e9)
    assert len(told.loads) == MOST_ENDED + MOST_RUNNING
    assert told.older_running == 9
    assert told.loads[-1].number == most, "the latest are told"
    assert {len(load.source) for load in told.loads} == {MOST_CHARACTERS}
    assert {load.outcome for load in told.loads} == {"running", Outcome.FAILED}
    assert len(msgspec.msgpack.encode(told.body())) < MAX_ANSWER_BYTES / 2
    assert json.loads(json.dumps(told.body()))["older_running"] == 9
