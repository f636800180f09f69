"""One load's record: the time of each phase, in a bounded number of samples."""

from __future__ import annotations

from streamer_client.contract.options import LoadOptions
from streamerd.observe.record import MOST_SAMPLES, Holder, Outcome, Phase, Record, phase_of
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.load import Load
from streamerd.state.shard import Shard

BLOCK = 64 << 10


def _load(**changes: object) -> Load:
    load = Load(LoadKey("1", 1), [Shard(ShardKey("8:1", "x"), 4 * BLOCK, BLOCK)], LoadOptions())
    load.admitted = True
    for name, value in changes.items():
        setattr(load, name, value)
    return load


def _record() -> Record:
    return Record(1, "load", "/m", "file", Holder(7, 0, "rank 0"), 1, 4 * BLOCK, 10.0)


def test_what_a_load_does_now() -> None:
    assert phase_of(None) is Phase.MEMORY
    assert phase_of(_load(admitted=False)) is Phase.MEMORY
    assert phase_of(_load(pending_blocks=1)) is Phase.BLOCKS
    assert phase_of(_load(served_bytes=9)) is Phase.COPYING
    assert phase_of(_load(served_bytes=9 * BLOCK, pending_blocks=1)) is Phase.BLOCKS
    behind = _load(served_bytes=9 * BLOCK, all_consumed_bytes=BLOCK, pending_blocks=1)
    assert phase_of(behind) is Phase.COPYING
    close_by = _load(served_bytes=9 * BLOCK, all_consumed_bytes=7 * BLOCK, pending_blocks=1)
    assert phase_of(close_by) is Phase.BLOCKS
    assert phase_of(_load(served_bytes=9, all_consumed_bytes=9)) is Phase.IDLE
    assert phase_of(_load(served_bytes=9, prefetch=True, pending_blocks=1)) is Phase.BLOCKS
    expired = _load(pending_blocks=1)
    expired.credentials.expired = True
    assert phase_of(expired) is Phase.CREDENTIALS


def test_time_goes_to_what_a_load_did_before() -> None:
    record = _record()
    record.advance(_load(pending_blocks=1), 11.0)  # the load waited a second for memory
    record.advance(_load(served_bytes=BLOCK), 13.0)
    record.advance(_load(served_bytes=BLOCK, all_consumed_bytes=BLOCK), 13.5)
    record.end(_load(served_bytes=BLOCK, all_consumed_bytes=BLOCK), 60.0, Outcome.ENDED)
    spent = record.spent_s
    assert (spent[Phase.MEMORY], spent[Phase.BLOCKS], spent[Phase.COPYING]) == (1.0, 2.0, 0.5)
    assert record.seconds == 3.5, "what a client does afterwards is not the load's time"


def test_what_a_load_was_served_has_one_of_three_origins() -> None:
    record = _record()
    record.admitted_bytes, record.read_bytes = BLOCK, BLOCK
    record.advance(_load(served_bytes=4 * BLOCK), 11.0)
    assert (record.resident_bytes, record.read_bytes, record.shared_bytes) == (
        BLOCK, BLOCK, 2 * BLOCK,
    )  # fmt: skip


def test_a_long_load_keeps_few_samples_that_are_still_true() -> None:
    record = _record()
    for step in range(100_000):
        record.read_bytes = step
        record.advance(_load(served_bytes=step + 1), 10.0 + 0.01 * step)
    record.end(None, 2000.0, Outcome.GONE)
    assert len(record.samples) <= MOST_SAMPLES + 1
    times = [sample.at_s for sample in record.samples]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (0.0, 999.99)
    for sample in record.samples:
        assert abs(sample.copying_s - sample.at_s) < 1e-3
        assert abs(sample.read_bytes - 100 * sample.at_s) < 1


def test_a_load_with_an_error_that_its_client_closes_has_failed() -> None:
    record = _record()
    record.error = "it cannot be read"
    record.end(None, 11.0, Outcome.ENDED)
    assert record.report(0.0).outcome == "failed"
