"""Several threads gather slices: every byte is right, requested slices come first, and errors are
raised.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from tests.support.rings import OpenFile, stored_in_memory

from streamer_client.contract.errors import DaemonUnavailable, SourceNotFound, StreamerError
from streamer_client.copy import gather
from streamer_client.copy.cut import Cut, Dimension, Part
from streamer_client.copy.gather import Gatherer
from streamer_client.copy.host_gather import HostGather, read_rows
from streamer_client.copy.slice import Readable, Source

CPU = torch.device("cpu")
DATA = bytes(range(256)) * 400
CUT = Cut(100, 30, (Dimension(7, 5000), Dimension(11, 100)))


def rows(cut: Cut) -> bytes:
    return b"".join(DATA[at : at + cut.row_bytes] for at in cut.starts())


@pytest.fixture
def stored() -> Iterator[OpenFile]:
    with stored_in_memory(DATA) as fd:
        yield OpenFile(fd)


def always(stored: OpenFile) -> Source:
    """A source whose bytes can be read at any time."""

    def source(start: int, stop: int, *, wait: bool) -> OpenFile:
        return stored

    return source


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "PART_BYTES", 64)
    monkeypatch.setattr(gather, "SMALLEST_PART_BYTES", 16)
    monkeypatch.setattr(gather, "BATCH_BYTES", 64)
    monkeypatch.setattr(gather, "SMALLEST_BATCH_BYTES", 32)
    monkeypatch.setattr(gather, "BATCH_STEP_BYTES", 16)


@pytest.mark.usefixtures("small_parts")
def test_every_byte_of_the_rows(stored: OpenFile) -> None:
    asked: list[tuple[int, int]] = []

    def source(start: int, stop: int, *, wait: bool) -> OpenFile:
        asked.append((start, stop))
        return stored

    with Gatherer(HostGather(3), CPU) as gatherer:
        found = gatherer.wait(gatherer.begin(source, CUT, "w"))
    assert bytes(found.tolist()) == rows(CUT)
    assert len(asked) == -(-CUT.size_bytes // 64)
    assert (min(asked)[0], max(asked)[1]) == (CUT.start, CUT.stop)


@pytest.mark.usefixtures("small_parts")
def test_what_is_asked_for_goes_before_what_is_foretold(stored: OpenFile) -> None:
    gate = threading.Event()
    order: list[str] = []

    class Noting(HostGather):
        def gather(self, parts: Sequence[Readable]) -> int:
            order.extend(one.slice.told(0, 1).rsplit(" ", 1)[-1] for one in parts)
            return super().gather(parts)

    def held(start: int, stop: int, *, wait: bool) -> OpenFile:
        gate.wait(10)
        return stored

    cut = Cut(0, 10, ())
    with Gatherer(Noting(1), CPU) as gatherer:
        first = gatherer.begin(held, cut, "first")
        ahead = [gatherer.begin(held, cut, name, foretold=True) for name in ("one", "two", "three")]
        asked = gatherer.begin(held, cut, "asked")
        gatherer.forget(ahead[0])
        hurried = threading.Thread(target=gatherer.wait, args=(ahead[2],))
        hurried.start()
        while gatherer._foretold and gatherer._foretold[-1] is ahead[2]:
            pass
        gate.set()
        for one in (first, asked, ahead[1]):
            assert bytes(gatherer.wait(one).tolist()) == DATA[:10]
        hurried.join()
    assert order == ["first", "asked", "three", "two"]


@pytest.mark.usefixtures("small_parts")
def test_an_error_of_the_source_is_raised_where_it_is_waited_for(stored: OpenFile) -> None:
    def source(start: int, stop: int, *, wait: bool) -> OpenFile:
        if start > 300:
            raise SourceNotFound("gone")
        return stored

    with Gatherer(HostGather(2), CPU) as gatherer:
        broken = gatherer.begin(source, CUT, "w")
        with pytest.raises(SourceNotFound, match="gone"):
            gatherer.wait(broken)
        well = gatherer.begin(source, Cut(0, 100, ()), "w")
        assert bytes(gatherer.wait(well).tolist()) == DATA[:100]


@pytest.mark.usefixtures("small_parts")
def test_an_error_is_raised_when_nothing_is_on_its_way_any_more(stored: OpenFile) -> None:
    """Bytes that arrive later would be written to memory that then belongs to another tensor."""
    failed, settled, parts = threading.Event(), [], len(range(0, CUT.size_bytes, 64))

    class Noting(HostGather):
        def settle(self, ticket: int) -> None:
            settled.append(ticket)

    def source(start: int, stop: int, *, wait: bool) -> OpenFile:
        if stop == CUT.stop:
            failed.set()
            raise SourceNotFound("gone")
        failed.wait(10)
        return stored

    # Each part has a thread, so all other parts are on their way when the last part fails.
    with Gatherer(Noting(parts), CPU) as gatherer:
        broken = gatherer.begin(source, CUT, "w")
        with pytest.raises(SourceNotFound, match="gone"):
            gatherer.wait(broken)
        assert broken.left_bytes == 0
        assert len(settled) == parts - 1


def test_a_closed_gatherer_says_so(stored: OpenFile) -> None:
    gatherer = Gatherer(HostGather(1), CPU)
    gatherer.close()
    gatherer.close()
    left = gatherer.begin(always(stored), CUT, "weight of a.safetensors")
    with pytest.raises(StreamerError, match=r"weight of a\.safetensors"):
        gatherer.wait(left)


def test_a_file_that_ends_before_its_rows_do(stored: OpenFile) -> None:
    cut = Cut(len(DATA) - 5, 10, ())
    with pytest.raises(DaemonUnavailable, match="ends before w"):
        read_rows(OpenFile(stored.fd), cut, Part(0, 10), memoryview(bytearray(10)), "w")


def test_a_closed_engine_is_asked_for_nothing(stored: OpenFile) -> None:
    """A lazy tensor that outlived an error asks for its slice when the ring's memory is gone."""

    class Closing(HostGather):
        closed = False

        def fence(self) -> None:
            assert not self.closed

        def close(self) -> None:
            self.closed = True

    gatherer = Gatherer(Closing(1), CPU)
    gatherer.wait(gatherer.begin(always(stored), CUT, "w"))
    gatherer.close()
    with pytest.raises(StreamerError, match="closed"):
        gatherer.wait(gatherer.begin(always(stored), CUT, "w"))


class Batches(HostGather):
    """Notes what is gathered together; the batch before waits until `gate` is open."""

    def __init__(self, threads: int = 1) -> None:
        super().__init__(threads)
        self.gate = threading.Event()
        self.batches: list[list[tuple[str, Part]]] = []

    def gather(self, parts: Sequence[Readable]) -> int:
        self.gate.wait(10)
        self.batches.append([(one.slice.told(0, 1).rsplit(" ", 1)[-1], one.part) for one in parts])
        return super().gather(parts)


class Late(HostGather):
    """Its threads claim nothing before `gate` is open."""

    def __init__(self) -> None:
        super().__init__(1)
        self.gate = threading.Event()

    def enter(self) -> None:
        self.gate.wait(10)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("waiting", "batches"),
    [
        (0, [[("one", 0, 10), ("two", 0, 54)], [("two", 54, 100), ("three", 0, 18)]]),
        (
            1,
            [
                [("one", 0, 10), ("two", 0, 54)],
                [("two", 54, 86)],
                [("two", 86, 100), ("three", 0, 18)],
                [("three", 18, 30)],
            ],
        ),
    ],
)
def test_foretold_slices_are_claimed_together_and_fewer_towards_the_end(
    stored: OpenFile, waiting: int, batches: list[list[tuple[str, int, int]]]
) -> None:
    engine = Late()
    with Gatherer(engine, CPU) as gatherer:
        for name, size in (("one", 10), ("two", 100), ("three", 30)):
            gatherer.begin(always(stored), Cut(0, size, ()), name, foretold=True)
        gatherer._waiting = waiting
        found = []
        while gatherer._foretold_bytes >= gatherer._batch_bytes():
            found.append(
                [(made.told(0, 1).rsplit(" ", 1)[-1], *part) for made, part in gatherer._batch()]
            )
        engine.gate.set()
    assert found == batches


@pytest.mark.usefixtures("small_parts")
def test_what_can_be_read_does_not_wait_for_what_cannot(stored: OpenFile) -> None:
    engine, late = Batches(), threading.Event()

    def source(start: int, stop: int, *, wait: bool) -> OpenFile | None:
        return stored if late.wait(10 if wait else 0) else None

    with Gatherer(engine, CPU) as gatherer:
        first = gatherer.begin(always(stored), Cut(0, 1, ()), "first")
        there = gatherer.begin(always(stored), Cut(0, 10, ()), "there", foretold=True)
        awaited = gatherer.begin(source, Cut(0, 10, ()), "awaited", foretold=True)
        engine.gate.set()
        gatherer.wait(first)
        assert bytes(gatherer.wait(there).tolist()) == DATA[:10]
        late.set()
        assert bytes(gatherer.wait(awaited).tolist()) == DATA[:10]
    assert [[name for name, _ in batch] for batch in engine.batches] == [
        ["first"],
        ["there"],
        ["awaited"],
    ]


@pytest.mark.usefixtures("small_parts")
def test_only_the_slice_that_cannot_be_read_has_the_error(stored: OpenFile) -> None:
    engine = Batches()
    with Gatherer(engine, CPU) as gatherer:
        first = gatherer.begin(always(stored), Cut(0, 1, ()), "first")
        cuts = [Cut(0, 10, ()), Cut(len(DATA) - 5, 10, ()), Cut(20, 10, ())]
        made = [
            gatherer.begin(always(stored), cut, name, foretold=True)
            for cut, name in zip(cuts, ("one", "short", "two"), strict=True)
        ]
        engine.gate.set()
        gatherer.wait(first)
        assert bytes(gatherer.wait(made[2]).tolist()) == DATA[20:30]
        with pytest.raises(DaemonUnavailable, match="bytes 0 to 10 of a slice of short"):
            gatherer.wait(made[1])
        assert bytes(gatherer.wait(made[0]).tolist()) == DATA[:10]


@pytest.mark.usefixtures("small_parts")
def test_a_slice_that_is_given_up_half_way(stored: OpenFile) -> None:
    engine = Batches()
    with Gatherer(engine, CPU) as gatherer:
        long = gatherer.begin(always(stored), Cut(0, 1000, ()), "long", foretold=True)
        while not long.claimed_bytes:
            pass
        forgetting = threading.Thread(target=gatherer.forget, args=(long,))
        forgetting.start()
        while gatherer._foretold:
            pass
        engine.gate.set()
        forgetting.join()
        assert (long.left_bytes, gatherer._foretold_bytes) == (0, 0)
        assert long.claimed_bytes < 1000
        after = gatherer.begin(always(stored), Cut(0, 10, ()), "after")
        assert bytes(gatherer.wait(after).tolist()) == DATA[:10]
    assert [name for batch in engine.batches for name, _ in batch][-1] == "after"


@pytest.mark.usefixtures("small_parts")
def test_less_than_a_batch_is_gathered_once_somebody_waits(stored: OpenFile) -> None:
    engine = Batches(2)
    engine.gate.set()
    with Gatherer(engine, CPU) as gatherer:
        ahead = [
            gatherer.begin(always(stored), Cut(0, 20, ()), name, foretold=True)
            for name in ("one", "two", "three")
        ]
        assert [made.claimed_bytes for made in ahead] == [0, 0, 0]
        for made in reversed(ahead):
            assert bytes(gatherer.wait(made).tolist()) == DATA[:20]
    assert {name for batch in engine.batches for name, _ in batch} == {"one", "two", "three"}
