"""The engine over both rings, driven by threads like a copier's."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from tests.support.compiled_ring import CompiledRing
from tests.support.rings import (
    FileFeed,
    LazyDevice,
    Memory,
    OpenFile,
    run_over,
    wait_until_freed,
)
from tests.support.rings import cut as cut_at
from tests.unit.streamer_client.copy.ring.conftest import DATA, MakeRing

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.copy.cut import Cut, Dimension, Part
from streamer_client.copy.destination import host_memory
from streamer_client.copy.ring.engine import RingEngine, slot_parts
from streamer_client.copy.ring.lanes import CopyFailed
from streamer_client.copy.ring.torch_ring import TorchRing
from streamer_client.copy.slice import Readable, Slice


def no_source(start: int, stop: int, *, wait: bool) -> OpenFile:
    raise AssertionError("an engine gets its images")


def in_thread(call: Callable[[], None]) -> None:
    """Run a call in a thread of its own, and raise its error here."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def end(engine: RingEngine) -> None:
    """Close an engine and wait until it has given everything back."""
    engine.close()
    wait_until_freed()


@pytest.mark.parametrize("from_file", [True, False])
def test_runs_arrive_and_settle(make_ring: MakeRing, shard_fd: int, *, from_file: bool) -> None:
    engine = RingEngine(make_ring(2, 8192), 2)
    feed = cast("Any", FileFeed(DATA, shard_fd if from_file else None))
    if from_file and isinstance(engine._ring, TorchRing):
        feed._fd = None  # a TorchRing reads through the feed even where there is a file
    one, two = cut_at(30_000, 5, 12_000), cut_at(20_000, 19_999)
    tickets: list[int] = []

    def work(start: int, targets: list[Memory]) -> None:
        tickets.append(engine.copy(feed, 0, run_over(targets, start)))
        tickets.append(engine.copy(feed, 0, run_over([Memory(1)], 0)))
        engine.settle(tickets[-2])
        engine.leave()

    in_thread(lambda: work(4321, one))
    in_thread(lambda: work(100_000, two))
    assert tickets[0] < tickets[1] < tickets[2] < tickets[3]
    engine.settle(tickets[1])  # the ticket is of a thread that has left
    end(engine)
    assert b"".join(target.bytes for target in one) == DATA[4321:34_321]
    assert b"".join(target.bytes for target in two) == DATA[100_000:120_000]


def test_a_thread_that_never_copied_may_leave(make_ring: MakeRing) -> None:
    engine = RingEngine(make_ring(2, 8192), 2)
    engine.leave()
    engine.settle(0)
    end(engine)


class SlowLane:
    """A device whose copies arrive only when the test says so."""

    sent = 1

    def __init__(self) -> None:
        self.waiting, self.arrive, self.freed = (threading.Event() for _ in range(3))

    def wait(self, sent: int) -> None:
        assert sent == 1
        self.waiting.set()
        assert self.arrive.wait(10)
        assert not self.freed.is_set()

    def close(self) -> None:
        self.freed.set()

    def copy(self, *_: object) -> bool:
        return True


def test_a_lane_is_not_freed_under_who_waits_with_it(shard_fd: int) -> None:
    """A load is closed while another thread waits for a slice of it."""
    lane = SlowLane()
    members = {"lane": lambda _: lane, "slot_bytes": 4096, "close": lambda _: None}
    ring = cast("Any", type("Slow", (), members))()
    engine, tickets = RingEngine(ring, 1), list[int]()

    def work() -> None:
        feed = cast("Any", FileFeed(DATA, shard_fd))
        tickets.append(engine.copy(feed, 0, run_over([Memory(10)], 0)))

    in_thread(work)
    waiter = threading.Thread(target=engine.settle, args=tickets)
    waiter.start()
    assert lane.waiting.wait(10)
    engine.close()
    assert not lane.freed.wait(0.05)
    lane.arrive.set()
    waiter.join()
    wait_until_freed()
    assert lane.freed.is_set()
    engine.settle(tickets[0])


def test_threads_run_where_they_are_told_to(make_ring: MakeRing) -> None:
    core = min(os.sched_getaffinity(0))
    engine = RingEngine(make_ring(2, 8192), 1, frozenset({core}))
    where: list[set[int]] = []

    def work() -> None:
        engine.copy(cast("Any", FileFeed(DATA)), 0, run_over([Memory(10)], 0))
        where.append(os.sched_getaffinity(0))
        engine.leave()

    before = os.sched_getaffinity(0)
    in_thread(work)
    assert where == [{core}]
    assert os.sched_getaffinity(0) == before
    end(engine)


def test_slot_parts_keep_the_alignment_of_the_file() -> None:
    targets = cut_at(30_000, 1000, 1001)
    parts = list(slot_parts(run_over(targets, 5000), 8192))
    assert [(part.start, part.stop) for part in parts] == [
        (5000, 4096 + 8192),
        (12_288, 20_480),
        (20_480, 28_672),
        (28_672, 35_000),
    ]
    for part in parts:
        assert part.start % 4096 + part.stop - part.start <= 8192
        assert sum(piece.stop - piece.start for piece in part.pieces) == part.stop - part.start


def test_an_error_names_tensor_range_and_cuda_error(compiled: CompiledRing, shard_fd: int) -> None:
    engine = RingEngine(compiled.ring(), 1)
    feed = cast("Any", FileFeed(DATA, shard_fd))
    compiled.fail("cuMemcpyHtoDAsync_v2", after=1)

    def work() -> None:
        try:
            engine.copy(feed, 0, run_over(cut_at(100, 60), 0))
        finally:
            engine.leave()

    with pytest.raises(CopyFailed, match=r"bytes 0 to 40 of tensor 60 .*CUDA_ERROR_ILLEGAL"):
        in_thread(work)
    end(engine)


def test_errors_of_torch_are_told_alike() -> None:
    device = LazyDevice()
    engine = RingEngine(TorchRing(device, 2, 4096), 1)
    engine.fence()
    assert device.fences == 1
    device.fail_next = True

    def work() -> None:
        try:
            engine.enter()
            assert device.pinned_bytes == 4096
            engine.copy(cast("Any", FileFeed(DATA)), 0, run_over([Memory(10)], 0))
        finally:
            engine.leave()

    with pytest.raises(CopyFailed, match=r"illegal memory access$"):
        in_thread(work)
    end(engine)
    assert device.pinned_bytes == 0


def test_copies_that_do_not_arrive(compiled: CompiledRing, shard_fd: int) -> None:
    engine = RingEngine(compiled.ring(), 1)
    feed = cast("Any", FileFeed(DATA, shard_fd))

    def work() -> None:
        ticket = engine.copy(feed, 0, run_over([Memory(10)], 0))
        compiled.fail("cuStreamQuery")
        try:
            engine.settle(ticket)
        finally:
            compiled.fail("cuStreamSynchronize")
            engine.leave()

    with pytest.raises(CopyFailed, match="did not arrive: CUDA_ERROR_ILLEGAL_ADDRESS"):
        in_thread(work)
    end(engine)
    compiled.fail("cuEventRecord")
    other = RingEngine(compiled.ring(), 1)
    with pytest.raises(CopyFailed, match="refuses an event"):
        other.fence()
    end(other)


def test_entering_pins_one_slot_and_says_nothing_of_failures(compiled: CompiledRing) -> None:
    first = RingEngine(compiled.ring(3, 8192), 1)

    def work() -> None:
        first.enter()
        assert compiled.fake.fake_pinned() == 4096 + 8192
        first.leave()

    in_thread(work)
    end(first)
    assert compiled.fake.fake_pinned() == 0
    engine = RingEngine(compiled.ring(3, 8192), 1)
    compiled.fail("cuMemHostRegister_v2")

    def enter_and_leave() -> None:
        engine.enter()
        engine.leave()

    in_thread(enter_and_leave)
    end(engine)


def test_a_slab_that_was_cut(compiled: CompiledRing, shard_fd: int) -> None:
    engine = RingEngine(compiled.ring(), 1)
    feed = cast("Any", FileFeed(DATA, shard_fd))

    def work() -> None:
        try:
            engine.copy(feed, 0, run_over([Memory(20)], len(DATA) - 10))
        finally:
            engine.leave()

    with pytest.raises(DaemonUnavailable, match="the slab of /the/shard ends before"):
        in_thread(work)
    end(engine)


def test_rows_arrive_and_settle(make_ring: MakeRing, shard_fd: int) -> None:
    engine = RingEngine(make_ring(2, 8192), 2)
    cut, part = Cut(5, 300, (Dimension(100, 1900),)), Part(100, 29_000)
    target = Slice(cut, torch.device("cpu"), "w", no_source)

    def work() -> None:
        engine.settle(engine.gather([Readable(target, part, OpenFile(shard_fd))]))
        engine.leave()

    in_thread(work)
    end(engine)
    rows = b"".join(DATA[at : at + 300] for at in cut.starts())
    arrived = bytes(host_memory(target.flat))
    assert arrived[part.start : part.stop] == rows[part.start : part.stop]


def test_rows_that_the_device_refuses_name_what_they_are(
    compiled: CompiledRing, shard_fd: int
) -> None:
    engine = RingEngine(compiled.ring(), 1)
    compiled.fail("cuMemcpyHtoDAsync_v2", after=1)
    target = Slice(Cut(0, 8192, ()), torch.device("cpu"), "w", no_source)

    def work() -> None:
        with pytest.raises(CopyFailed, match="bytes 4096 to 8192 of a slice of w"):
            engine.gather([Readable(target, Part(0, 8192), OpenFile(shard_fd))])
        engine.leave()

    in_thread(work)
    compiled.fail("")
    end(engine)
