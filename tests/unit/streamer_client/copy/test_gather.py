"""Several threads gather slices: every byte is right, requested slices come first, and errors are
raised.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.support.rings import OpenFile

from streamer_client.contract.errors import DaemonUnavailable, SourceNotFound, StreamerError
from streamer_client.copy import gather
from streamer_client.copy.cut import Cut, Dimension, Part
from streamer_client.copy.gather import Gatherer, HostGather, read_rows

CPU = torch.device("cpu")
DATA = bytes(range(256)) * 400
CUT = Cut(100, 30, (Dimension(7, 5000), Dimension(11, 100)))


def rows(cut: Cut) -> bytes:
    return b"".join(DATA[at : at + cut.row_bytes] for at in cut.starts())


@pytest.fixture
def stored() -> Iterator[OpenFile]:
    fd = os.memfd_create("shard")
    os.write(fd, DATA)
    yield OpenFile(fd)
    os.close(fd)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "PART_BYTES", 64)
    monkeypatch.setattr(gather, "SMALLEST_PART_BYTES", 16)


@pytest.mark.usefixtures("small_parts")
def test_every_byte_of_the_rows(stored: OpenFile) -> None:
    asked: list[tuple[int, int]] = []

    def source(start: int, stop: int) -> OpenFile:
        asked.append((start, stop))
        return stored

    with Gatherer(HostGather(3), CPU) as gatherer:
        found = gatherer.wait(gatherer.begin(source, CUT, "w"))
    assert bytes(found.tolist()) == rows(CUT)
    assert len(asked) == -(-CUT.size_bytes // 64)
    assert (min(asked)[0], max(asked)[1]) == (CUT.start, CUT.stop)


@pytest.mark.usefixtures("small_parts")
def test_what_is_asked_for_goes_before_what_is_foretold(stored: OpenFile) -> None:
    gate, order = threading.Event(), []

    class Noting(HostGather):
        def gather(self, image: Any, part: Part, to: Any) -> int:
            order.append(to.told(0, 1).rsplit(" ", 1)[-1])
            return super().gather(image, part, to)

    def held(start: int, stop: int) -> OpenFile:
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
        while gatherer._foretold and gatherer._foretold[-1].slice is ahead[2]:
            pass
        gate.set()
        for one in (first, asked, ahead[1]):
            assert bytes(gatherer.wait(one).tolist()) == DATA[:10]
        hurried.join()
    assert order == ["first", "asked", "three", "two"]


@pytest.mark.usefixtures("small_parts")
def test_an_error_of_the_source_is_raised_where_it_is_waited_for(stored: OpenFile) -> None:
    def source(start: int, stop: int) -> OpenFile:
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

    def source(start: int, stop: int) -> OpenFile:
        if stop == CUT.stop:
            failed.set()
            raise SourceNotFound("gone")
        failed.wait(10)
        return stored

    # A thread for each part: all others are on their way when the last one fails.
    with Gatherer(Noting(parts), CPU) as gatherer:
        broken = gatherer.begin(source, CUT, "w")
        with pytest.raises(SourceNotFound, match="gone"):
            gatherer.wait(broken)
        assert broken.left_parts == 0
        assert len(settled) == parts - 1


def test_a_closed_gatherer_says_so(stored: OpenFile) -> None:
    gatherer = Gatherer(HostGather(1), CPU)
    gatherer.close()
    gatherer.close()
    left = gatherer.begin(lambda _start, _stop: stored, CUT, "weight of a.safetensors")
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
    gatherer.wait(gatherer.begin(lambda _start, _stop: stored, CUT, "w"))
    gatherer.close()
    with pytest.raises(StreamerError, match="closed"):
        gatherer.wait(gatherer.begin(lambda _start, _stop: stored, CUT, "w"))
