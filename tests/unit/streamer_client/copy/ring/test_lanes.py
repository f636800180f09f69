"""Lanes of both rings: every byte arrives where it belongs, and no slot is used again too early."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.support.compiled_ring import CompiledRing
from tests.support.rings import Memory, OpenFile, cut, run_over
from tests.unit.streamer_client.copy.ring.conftest import DATA, MakeRing

from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.cut import Cut, Dimension, Part
from streamer_client.copy.destination import Target, host_memory
from streamer_client.copy.plan import Piece
from streamer_client.copy.ring import native
from streamer_client.copy.ring.lanes import CudaFailure, ShortImage
from streamer_client.copy.ring.native import NoLibrary, load_library
from streamer_client.copy.slice import Readable, Slice
from streamer_client.tensors.in_place import InPlace

CountedCopy = Callable[[InPlace], int]


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_slots_are_filled_and_sent_in_turn(make_ring: MakeRing, slots: int) -> None:
    ring = make_ring(slots, 4096)
    lane = ring.lane()
    targets = cut(40_000, 1, 4096, 4097, 9000, 39_999)
    at = 0
    for target in targets:
        for start in range(0, target.left_bytes, 4000):
            stop = min(start + 4000, target.left_bytes)
            lane.slot()[96 : 96 + stop - start] = DATA[at : at + stop - start]
            lane.send(96, stop - start, [(target, start, stop)])  # type: ignore[list-item]
            at += stop - start
    lane.wait(lane.sent)
    assert b"".join(target.bytes for target in targets) == DATA[:40_000]
    lane.close()
    ring.close()


def test_closing_a_lane_waits_for_what_it_sent(make_ring: MakeRing) -> None:
    ring = make_ring(2, 4096)
    lane = ring.lane()
    target = Memory(100)
    lane.slot()[:100] = DATA[:100]
    lane.send(0, 100, run_over([target], 0).pieces)
    assert target.bytes != DATA[:100]
    lane.close()
    assert target.bytes == DATA[:100]
    ring.close()


def test_waiting_for_the_first_needs_not_the_last(make_ring: MakeRing) -> None:
    ring = make_ring(2, 4096)
    lane = ring.lane()
    for place in range(5):
        lane.slot()[:1] = bytes([place])
        target = Memory(1)
        lane.send(0, 1, run_over([target], 0).pieces)
        if place == 0:
            first = target
    lane.wait(1)
    assert first.bytes == b"\0"
    lane.wait(0)
    lane.close()
    ring.close()


@pytest.mark.parametrize("start", [0, 1, 5000])
@pytest.mark.parametrize("slot_bytes", [4096, 16 << 10])
def test_a_file_is_read_and_sent(
    compiled: CompiledRing, shard_fd: int, start: int, slot_bytes: int
) -> None:
    ring = compiled.ring(3, slot_bytes)
    lane = ring.lane()
    targets = cut(50_000, 1, 3, 4096, 4097, 30_000)
    assert lane.copy(OpenFile(shard_fd), start, 50_000, run_over(targets, start).pieces)
    lane.wait(lane.sent)
    assert b"".join(target.bytes for target in targets) == DATA[start : start + 50_000]
    lane.close()
    ring.close()


def test_slots_are_pinned_as_they_are_used_and_freed_with_the_lane(
    compiled: CompiledRing, shard_fd: int
) -> None:
    ring = compiled.ring(3, 8192)
    lane = ring.lane()
    flags = compiled.fake.fake_pinned()
    assert flags == 4096
    target = Memory(50_000)
    lane.copy(OpenFile(shard_fd), 0, 10_000, [(target, 0, 10_000)])  # type: ignore[list-item]
    assert compiled.fake.fake_pinned() == flags + 2 * 8192
    lane.copy(OpenFile(shard_fd), 0, 50_000, run_over([target], 0).pieces)
    assert compiled.fake.fake_peak() == flags + 3 * 8192
    lane.close()
    assert compiled.fake.fake_pinned() == 0
    ring.close()


@pytest.fixture
def streams(compiled: CompiledRing) -> Iterator[list[ctypes.c_void_p]]:
    """Two streams of callers."""
    other = compiled.ring()  # a context must be current to make a stream
    compiled.fake.cuCtxPushCurrent_v2(None)
    made = [ctypes.c_void_p(), ctypes.c_void_p()]
    for stream in made:
        compiled.fake.cuStreamCreate(ctypes.byref(stream), 0)
    yield made
    other.close()
    for stream in made:
        compiled.fake.cuStreamDestroy_v2(stream)
    compiled.fake.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@pytest.mark.parametrize("filled_by", [0, 1])
def test_copies_wait_for_what_callers_do_before_their_fences(
    compiled: CompiledRing, streams: list[ctypes.c_void_p], shard_fd: int, filled_by: int
) -> None:
    """A lane has to wait for two fences at once, each of another stream."""
    current = iter(stream.value or 0 for stream in streams)
    ring = compiled.ring(stream=lambda: next(current))
    lane = ring.lane()
    target = Memory(100)
    compiled.fake.fake_fill(streams[filled_by], target.address, 100, 0x55)
    for _ in streams:
        ring.fence()
    lane.copy(OpenFile(shard_fd), 0, 100, run_over([target], 0).pieces)
    lane.wait(lane.sent)
    for stream in streams:
        compiled.fake.cuStreamSynchronize(stream)
    assert target.bytes == DATA[:100]
    lane.close()
    ring.close()


def test_a_file_that_ends_early(compiled: CompiledRing, shard_fd: int) -> None:
    ring = compiled.ring()
    lane = ring.lane()
    with pytest.raises(ShortImage):
        lane.copy(OpenFile(shard_fd), len(DATA) - 10, 20, run_over([Memory(20)], 0).pieces)
    with pytest.raises(OSError, match="Bad file"):
        lane.copy(OpenFile(-1), 0, 20, run_over([Memory(20)], 0).pieces)
    lane.close()
    ring.close()


def test_a_copy_that_cannot_be_sent_tells_how_far_it_came(
    compiled: CompiledRing, shard_fd: int
) -> None:
    ring = compiled.ring()
    lane = ring.lane()
    targets = cut(10_000, 100, 9000)
    compiled.fail("cuMemcpyHtoDAsync_v2", after=2)
    with pytest.raises(CudaFailure, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        lane.copy(OpenFile(shard_fd), 0, 10_000, run_over(targets, 0).pieces)
    assert caught.value.at_bytes == 4096
    lane.close()
    ring.close()


@pytest.mark.parametrize(
    "name",
    ["cuMemHostRegister_v2", "cuStreamWriteValue32_v2", "cuStreamQuery", "cuStreamWaitEvent"],
)
def test_failures_on_the_way(compiled: CompiledRing, shard_fd: int, name: str) -> None:
    ring = compiled.ring()
    lane = ring.lane()
    ring.fence()
    compiled.fail(name)
    with pytest.raises(CudaFailure, match="ILLEGAL"):
        lane.copy(OpenFile(shard_fd), 0, 30_000, run_over([Memory(30_000)], 0).pieces)
    lane.close()
    ring.close()


@pytest.mark.parametrize(
    "name", ["cuInit", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuStreamCreate"]
)
def test_a_device_that_cannot_be_used(compiled: CompiledRing, name: str) -> None:
    compiled.fail(name)
    with pytest.raises(CudaFailure, match="ILLEGAL"):
        compiled.ring()


def test_a_lane_that_cannot_be_made(compiled: CompiledRing) -> None:
    ring = compiled.ring()
    for name in ("cuMemHostRegister_v2", "cuMemHostGetDevicePointer_v2"):
        compiled.fail(name)
        with pytest.raises(CudaFailure, match="ILLEGAL"):
            ring.lane()
    ring.close()


def test_waiting_and_closing_tell_of_copies_that_failed(
    compiled: CompiledRing, shard_fd: int
) -> None:
    ring = compiled.ring()
    lane = ring.lane()
    lane.copy(OpenFile(shard_fd), 0, 10, run_over([Memory(10)], 0).pieces)
    compiled.fail("cuStreamQuery")
    with pytest.raises(CudaFailure):
        lane.wait(lane.sent)
    compiled.fail("cuStreamSynchronize")
    with pytest.raises(CudaFailure):
        lane.close()
    ring.close()


def test_no_driver_and_no_library(compiled: CompiledRing) -> None:
    compiled.driver, driver = "libnothing.so", compiled.driver
    try:
        with pytest.raises(NoLibrary, match=r"libnothing\.so"):
            compiled.ring()
    finally:
        compiled.driver = driver
    with pytest.raises(NoLibrary, match="nowhere"):
        load_library("/nowhere/ring.so")
    with pytest.raises(NoLibrary, match="ring_abi"):
        load_library(driver)


def neighbours(sizes: list[int], gap: int = 0) -> tuple[InPlace, torch.Tensor]:
    """Tensors of these sizes, side by side in one piece of memory but for a gap after the third."""
    memory = torch.full((sum(sizes) + gap,), 0xEE, dtype=torch.uint8)
    entries, targets, at = [], [], 0
    for place, size in enumerate(sizes):
        entries.append(TensorEntry(f"t{place}", "U8", (size,), at, at + size))
        where = at + (gap if place > 2 else 0)
        targets.append(memory[where : where + size])
        at += size
    return InPlace(entries, targets, "/s"), memory


@pytest.fixture
def copies(compiled: CompiledRing, shard_fd: int) -> Iterator[CountedCopy]:
    """Copies a whole span out of the file; returns the number of copies that CUDA was asked for."""
    ring = compiled.ring(2, 8192)
    lane = ring.lane()

    def copy(span: InPlace) -> int:
        before = int(compiled.fake.fake_copies())
        pieces = [Piece[Target](span, 0, span.left_bytes)]
        assert lane.copy(OpenFile(shard_fd), 0, span.left_bytes, pieces)
        lane.wait(lane.sent)
        return int(compiled.fake.fake_copies()) - before

    yield copy
    lane.close()
    ring.close()
    compiled.fake.fake_allocate(0, 0)


def test_neighbours_in_one_allocation_are_one_copy(
    compiled: CompiledRing, copies: CountedCopy
) -> None:
    span, memory = neighbours([100, 0, 200, 300, 0])
    compiled.fake.fake_allocate(memory.data_ptr(), memory.nbytes)
    assert copies(span) == 1
    assert bytes(host_memory(memory)) == DATA[:600]


def test_copies_end_with_the_slot_and_at_a_gap(compiled: CompiledRing, copies: CountedCopy) -> None:
    span, memory = neighbours([4000, 4000, 4000, 4000, 4000, 4000], gap=7)
    compiled.fake.fake_allocate(memory.data_ptr(), memory.nbytes)
    assert copies(span) == 4
    data = bytes(host_memory(memory))
    assert data[:12_000] + data[12_007:] == DATA[:24_000]


def test_no_copy_goes_past_the_end_of_an_allocation(
    compiled: CompiledRing, copies: CountedCopy
) -> None:
    span, memory = neighbours([100, 200, 300, 400, 500])
    compiled.fake.fake_allocate(memory.data_ptr(), 300)
    compiled.fake.fake_allocate(memory.data_ptr() + 300, 1200)
    assert copies(span) == 2
    assert bytes(host_memory(memory)) == DATA[:1500]


def test_of_memory_that_cuda_does_not_know_each_tensor_is_a_copy(copies: CountedCopy) -> None:
    span, memory = neighbours([100, 200, 300])
    assert copies(span) == 3
    assert bytes(host_memory(memory)) == DATA[:600]


GATHERED = Cut(7, 100, (Dimension(3, 40_000), Dimension(50, 640)))


def a_slice(cut: Cut) -> Slice:
    """Memory of this process, which the driver of these tests takes for a device's."""

    def source(start: int, stop: int, *, wait: bool) -> OpenFile:
        raise AssertionError("lanes get their images")

    return Slice(cut, torch.device("cpu"), "w", source)


@pytest.mark.parametrize("slot_bytes", [4096, 16 << 10])
@pytest.mark.parametrize("part", [Part(0, 15_000), Part(0, 1), Part(4096, 9999), Part(99, 14_901)])
@pytest.mark.parametrize("mapped", [True, False])
def test_rows_are_gathered(
    compiled: CompiledRing,
    shard_fd: int,
    monkeypatch: pytest.MonkeyPatch,
    part: Part,
    slot_bytes: int,
    *,
    mapped: bool,
) -> None:
    if not mapped:
        monkeypatch.setattr(native.Images, "address", lambda *_: None)
    ring = compiled.ring(2, slot_bytes)
    lane = ring.lane()
    target, other = a_slice(GATHERED), a_slice(Cut(50_000, 9000, ()))
    image = OpenFile(shard_fd)
    assert lane.gather([Readable(target, part, image), Readable(other, Part(0, 9000), image)])
    lane.wait(lane.sent)
    rows = b"".join(DATA[at : at + 100] for at in GATHERED.starts())
    arrived = bytes(host_memory(target.flat))
    assert arrived[part.start : part.stop] == rows[part.start : part.stop]
    assert bytes(host_memory(other.flat)) == DATA[50_000:59_000]
    lane.close()
    ring.close()


def test_rows_past_the_end_of_a_file(compiled: CompiledRing, shard_fd: int) -> None:
    ring = compiled.ring(2, 4096)
    lane = ring.lane()
    cut = Cut(len(DATA) - 50, 100, ())
    with pytest.raises(ShortImage):
        lane.gather([Readable(a_slice(cut), Part(0, 100), OpenFile(shard_fd))])
    lane.close()
    ring.close()


def test_rows_of_too_many_dimensions_are_left_to_slots(
    compiled: CompiledRing, shard_fd: int
) -> None:
    ring = compiled.ring(2, 4096)
    lane = ring.lane()
    simple, deep = Cut(0, 1, ()), Cut(0, 1, (Dimension(1, 1),) * 9)
    image, sent = OpenFile(shard_fd), lane.sent
    assert not lane.gather([Readable(a_slice(cut), Part(0, 1), image) for cut in (simple, deep)])
    assert lane.sent == sent
    lane.close()
    ring.close()
