"""Slices that lanes gather without the interpreter: every byte, every error, and the end."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.compiled_ring import CompiledRing
from tests.support.rings import OpenFile, stored_in_memory

from streamer_client.contract.errors import DaemonUnavailable, StreamerError
from streamer_client.copy.cut import Cut, Dimension
from streamer_client.copy.destination import host_memory
from streamer_client.copy.gather import Gatherer
from streamer_client.copy.ring.engine import RingEngine
from streamer_client.copy.ring.lanes import CopyFailed, CudaFailure, RingLane
from streamer_client.copy.ring.native import NativeQueue
from streamer_client.copy.slice import Slice, Source

CPU = torch.device("cpu")
"""The fake driver takes memory of this process for a device's."""
LARGE = random.Random(5).randbytes(11 << 20)
CUTS = [
    *(Cut(0, 1, ()), Cut(17, 9_000, ()), Cut(5, 300, (Dimension(100, 1900),))),
    *(Cut(7, 100, (Dimension(3, 40_000), Dimension(50, 640))), Cut(3, (9 << 20) + 1, ())),
    Cut(0, 1, (Dimension(2, 1024),) * 1 + tuple(Dimension(2, 512 >> place) for place in range(9))),
]
"""The last one has more dimensions than C takes, so that Python's threads gather it."""


def rows(cut: Cut) -> bytes:
    return b"".join(LARGE[at : at + cut.row_bytes] for at in cut.starts())


def bytes_of(made: torch.Tensor) -> bytes:
    return bytes(host_memory(made))


@pytest.fixture
def stored() -> Iterator[OpenFile]:
    with stored_in_memory(LARGE) as fd:
        yield OpenFile(fd)


def source_of(stored: OpenFile, until: threading.Event | None = None) -> Source:
    """A source that can be read at once, or once an event is set."""

    def source(start: int, stop: int, *, wait: bool) -> OpenFile | None:
        if until is not None and not until.wait(20 if wait else 0):
            return None
        return stored

    return source


def gatherer(compiled: CompiledRing, threads: int, slots: int = 2) -> Gatherer:
    return Gatherer(RingEngine(compiled.ring(slots, 64 << 10), threads), CPU)


@pytest.mark.parametrize("threads", [1, 4])
def test_every_byte_foretold_or_asked_for(
    compiled: CompiledRing, stored: OpenFile, threads: int
) -> None:
    chance, late = random.Random(threads), threading.Event()
    with gatherer(compiled, threads) as gathering:
        made: list[Slice] = []
        for _ in range(60):
            source = source_of(stored, chance.choice([None, None, late]))
            cut = chance.choice(CUTS)
            made.append(gathering.begin(source, cut, "w", foretold=chance.random() < 0.7))
        late.set()
        assert any(one.number is not None for one in made)
        chance.shuffle(made)
        for one in made[::5]:
            gathering.forget(one)
        for place, one in enumerate(made):
            if place % 5:
                assert bytes_of(gathering.wait(one)) == rows(one.cut)
        assert all(one.number is None for one in made)
        # The slice is complete already, so this second wait returns at once.
        assert bytes_of(gathering.wait(made[1])) == rows(made[1].cut)


def test_a_slice_that_cannot_be_read_has_the_error_alone(
    compiled: CompiledRing, stored: OpenFile
) -> None:
    with gatherer(compiled, 2) as gathering:
        good = gathering.begin(source_of(stored), Cut(0, 100_000, ()), "good", foretold=True)
        short = gathering.begin(source_of(stored), Cut(len(LARGE) - 9, 10, ()), "short")
        with pytest.raises(DaemonUnavailable, match="a slice of short"):
            gathering.wait(short)
        assert bytes_of(gathering.wait(good)) == LARGE[:100_000]


def test_what_the_device_refuses(compiled: CompiledRing, stored: OpenFile) -> None:
    with gatherer(compiled, 1) as gathering:
        compiled.fail("cuMemcpyHtoDAsync_v2", after=1)
        broken = gathering.begin(source_of(stored), Cut(0, 128 << 10, ()), "w")
        with pytest.raises(CopyFailed, match="bytes 65536 to 131072 of a slice of w"):
            gathering.wait(broken)
        compiled.fail("")
        after = gathering.begin(source_of(stored), Cut(0, 1000, ()), "w")
        assert bytes_of(gathering.wait(after)) == LARGE[:1000]


class WithoutLanes(RingEngine):
    def _lane(self) -> tuple[RingLane, int]:
        raise CudaFailure("CUDA_ERROR_OUT_OF_MEMORY")


def test_no_memory_can_be_pinned(compiled: CompiledRing, stored: OpenFile) -> None:
    with Gatherer(WithoutLanes(compiled.ring(), 2), CPU) as gathering:
        for _ in range(3):
            made = gathering.begin(source_of(stored), Cut(0, 1000, ()), "w")
            with pytest.raises(StreamerError, match=r"slice of w .*CUDA_ERROR_OUT_OF_MEMORY"):
                gathering.wait(made)


class NeverServed(RingEngine):
    """Its threads gather nothing before `gate` is open."""

    gate = threading.Event()

    def enter(self) -> None:
        self.gate.wait(20)


def test_a_wait_ends_when_the_gatherer_is_closed(compiled: CompiledRing, stored: OpenFile) -> None:
    NeverServed.gate.clear()
    errors: list[StreamerError] = []
    gathering = Gatherer(NeverServed(compiled.ring(), 1), CPU)
    made = gathering.begin(source_of(stored), Cut(0, 1000, ()), "weight of a shard")

    def waits() -> None:
        try:
            gathering.wait(made)
        except StreamerError as error:
            errors.append(error)

    waiting, closing = threading.Thread(target=waits), threading.Thread(target=gathering.close)
    waiting.start()
    closing.start()
    waiting.join(20)
    NeverServed.gate.set()
    closing.join(20)
    assert "weight of a shard was not gathered: closed" in str(errors[0])
    with pytest.raises(StreamerError, match="closed"):
        gathering.wait(gathering.begin(source_of(stored), Cut(0, 1000, ()), "w"))


def test_what_is_given_up_before_it_begins_is_not_read(
    compiled: CompiledRing, stored: OpenFile
) -> None:
    NeverServed.gate.clear()
    with Gatherer(NeverServed(compiled.ring(), 1), CPU) as gathering:
        left = gathering.begin(source_of(stored), Cut(0, 1000, ()), "left", foretold=True)
        left.flat.fill_(7)
        gathering.forget(left)
        NeverServed.gate.set()
        made = gathering.begin(source_of(stored), Cut(0, 1000, ()), "made")
        gathering.wait(made)
        assert set(bytes_of(left.flat)) == {7}


def test_slots_are_full_where_a_loader_waits_while_there_is_other_work(
    compiled: CompiledRing, stored: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot that holds a fourth costs as much time, and a loader of one rank always waits."""
    NeverServed.gate.clear()
    native_wait = NativeQueue.wait

    def wait_then_serve(queue: NativeQueue, number: int) -> Any:
        found = native_wait(queue, number)
        NeverServed.gate.set()  # the queue knows by now that somebody waits for this slice
        return found

    monkeypatch.setattr(NativeQueue, "wait", wait_then_serve)
    slot_bytes = 4 << 20
    with Gatherer(NeverServed(compiled.ring(2, slot_bytes), 1), CPU) as gathering:
        cuts = [Cut(0, 2 * slot_bytes, ()), Cut(0, slot_bytes, ())]
        made = [gathering.begin(source_of(stored), cut, "w", foretold=True) for cut in cuts]
        before = compiled.fake.fake_copies()
        for one in made:
            assert bytes_of(gathering.wait(one)) == rows(one.cut)
    assert compiled.fake.fake_copies() - before == 3
