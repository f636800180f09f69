"""Targets that are filled in place: which share memory, which are joined to a span, and where bytes
go.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.tensors import in_place
from streamer_client.tensors.in_place import InPlace, InPlaceSpans, sharing_groups

START = 104
SIZES = (5, 0, 3, 100, 0, 0, 1, 64, 64, 0)


def entries(sizes: tuple[int, ...] = SIZES, at: int = START) -> list[TensorEntry]:
    found = []
    for place, size in enumerate(sizes):
        found.append(TensorEntry(f"t{place}", "U8", (size,), at, at + size))
        at += size
    return found


def apart(chosen: list[TensorEntry]) -> list[torch.Tensor]:
    return [torch.zeros(entry.shape, dtype=torch.uint8) for entry in chosen]


def side_by_side(chosen: list[TensorEntry]) -> list[torch.Tensor]:
    whole = torch.zeros(chosen[-1].stop - chosen[0].start, dtype=torch.uint8)
    return [whole[one.start - chosen[0].start : one.stop - chosen[0].start] for one in chosen]


def mixed(chosen: list[TensorEntry]) -> list[torch.Tensor]:
    """Targets of which some lie side by side, some apart, and some in the wrong order."""
    near, far = side_by_side(chosen), apart(chosen)
    targets = [
        one if place % 3 else other
        for place, (one, other) in enumerate(zip(near, far, strict=True))
    ]
    targets[7], targets[8] = targets[8], targets[7]
    return targets


@pytest.mark.parametrize("memory", [apart, side_by_side, mixed])
def test_every_range_is_where_its_tensors_are(memory: object) -> None:
    # The sizes are small because the test tries each pair of bounds.
    chosen = entries((5, 0, 3, 20, 0, 0, 1, 12, 12, 0))
    assert callable(memory)
    targets: list[torch.Tensor] = memory(chosen)
    span = InPlace(chosen, targets, "/s")
    data = random.Random(1).randbytes(span.left_bytes)
    assert (span.start, span.stop, span.on_host) == (START, chosen[-1].stop, True)
    for start in range(span.left_bytes):
        for stop in range(start + 1, span.left_bytes + 1):
            at = start
            for piece in span.memories(start, stop):
                piece[:] = data[at : at + len(piece)]
                at += len(piece)
            assert at == stop
            assert (
                b"".join(bytes(flat.tolist()) for flat in span.flats(start, stop))
                == (data[start:stop])
            )
            assert list(span.extents(start, stop)) == list(expected(span, targets, start, stop))
    for entry, target in zip(chosen, targets, strict=True):
        assert bytes(target.tolist()) == data[entry.start - START : entry.stop - START]


def expected(span: InPlace, targets: list[torch.Tensor], start: int, stop: int) -> Iterator[int]:
    """The address and size of each tensor's part of a range."""
    for entry, target in zip(span.entries, targets, strict=True):
        begin, end = entry.start - START, entry.stop - START
        first, last = max(start, begin), min(stop, end)
        empty_within = begin == end and start < begin < stop
        if first < last or empty_within:
            yield target.data_ptr() + max(0, start - begin)
            yield last - first


def test_host_memory_that_lies_side_by_side_is_one_buffer() -> None:
    chosen = entries()
    assert len(list(InPlace(chosen, side_by_side(chosen), "/s").memories(0, 200))) == 1
    assert len(list(InPlace(chosen, apart(chosen), "/s").memories(0, 200))) == 6


def test_parameters_that_want_gradients_are_written_to() -> None:
    (entry,) = [TensorEntry("w", "F32", (2, 2), 8, 24)]
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    (flat,) = InPlace([entry], [weight], "/s").flats(0, 16)
    flat.copy_(torch.full((4,), 1.0).view(torch.uint8))
    assert weight.tolist() == [[1, 1], [1, 1]]


def test_an_error_names_the_first_tensor_and_its_range() -> None:
    span = InPlace(entries(), apart(entries()), "/s")
    assert span.told(0, 5) == "bytes 0 to 5 of tensor t0 of /s"
    assert span.told(10, 20) == "bytes 2 to 12 of tensor t3 of /s"
    assert span.told(10, 200) == "bytes 2 to 100 of tensor t3 of /s and 5 more tensors"


def spans(chosen: list[TensorEntry], targets: list[torch.Tensor] | None = None) -> list[str]:
    """The spans that were made, by their tensors' names."""
    made = InPlaceSpans("/s")
    found = [
        one
        for entry, target in zip(chosen, targets or apart(chosen), strict=True)
        for one in made.add(entry, target)
    ]
    found += made.cut()
    assert not made.cut()
    return ["".join(entry.name for entry in span.entries) for span in found]


def test_small_neighbours_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "SMALL_BYTES", 10)
    monkeypatch.setattr(in_place, "SPAN_BYTES", 20)
    assert spans(entries((5, 5, 10, 1, 0, 11, 0, 2, 11, 11))) == [
        *("t0t1t2", "t3t4", "t5", "t6t7", "t8", "t9"),
    ]
    assert spans([*entries((5, 5)), *entries((1, 1), at=START + 11)]) == ["t0t1", "t0t1"]
    assert spans([]) == []


def test_host_and_device_are_kept_apart() -> None:
    chosen = entries((4, 4, 4))
    targets = apart(chosen)
    targets[1] = targets[1].to("meta")
    assert spans(chosen, targets) == ["t0", "t1", "t2"]


def test_separate_tensors_share_nothing() -> None:
    memory = torch.zeros(20)
    assert sharing_groups({"a": memory[:10], "b": memory[10:], "c": torch.zeros(3)}) == {}


def test_chains_of_overlaps_are_one_group() -> None:
    memory, other = torch.zeros(30), torch.zeros(4)
    targets = {
        "a": memory[:12],
        "b": memory[10:20],
        "c": memory[18:],
        "d": other,
        "e": other.view(2, 2).t(),
        "f": torch.zeros(0),
    }
    groups = sharing_groups(targets)
    assert groups["a"] == groups["b"] == groups["c"]
    assert groups["d"] == groups["e"] != groups["a"]
    assert "f" not in groups
