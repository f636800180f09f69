"""Tensors that do not fit their bytes or their file: each error names file, tensor and remedy."""

from __future__ import annotations

import re

import pytest
import safetensors
from tests.support.safetensors_files import as_safetensors_reads, built, field, parse, refusal

from streamer_client.contract.limits import MAX_DIMENSIONS
from streamer_client.contract.safetensors.catalog import DTYPE_BITS


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_has_the_size_that_safetensors_gives_it(dtype: str) -> None:
    size = DTYPE_BITS[dtype]
    file = built({"t": field(dtype, [8], 0, size)}, size)
    assert parse(file).entries[0].stop == len(file)
    as_safetensors_reads(file)


def test_no_dtype_of_safetensors_is_missing() -> None:
    with pytest.raises(safetensors.SafetensorError) as caught:
        as_safetensors_reads(built({"t": field("NONE", [1], 0, 1)}, 1))
    assert set(re.findall(r"`([A-Z0-9_]+)`", str(caught.value))) - {"NONE"} == set(DTYPE_BITS)


@pytest.mark.parametrize("dtype", ["F31", "f32", "", "FLOAT", "F6"])
def test_unknown_dtype(dtype: str) -> None:
    told = refusal(built({"w": field(dtype, [1], 0, 4)}, 4))
    assert f"tensor 'w' has the unknown dtype {dtype!r}" in told
    assert "BF16" in told


def test_decreasing_offsets() -> None:
    assert "tensor 'w' has decreasing offsets [4, 0]" in refusal(
        built({"w": field("F32", [1], 4, 0)}, 4)
    )


@pytest.mark.parametrize(("shape", "stop"), [([2], 4), ([], 8), ([0], 4), ([1, 1], 3)])
def test_shape_that_does_not_match_its_bytes(shape: list[int], stop: int) -> None:
    told = refusal(built({"w": field("F32", shape, 0, stop)}, stop))
    assert f"tensor 'w' of dtype F32 and shape {shape} takes" in told
    assert f"hold {stop}" in told


@pytest.mark.parametrize(("dtype", "count"), [("F4", 3), ("F6_E2M3", 1), ("F6_E3M2", 6)])
def test_packed_elements_must_end_on_a_whole_byte(dtype: str, count: int) -> None:
    size = -(-count * DTYPE_BITS[dtype] // 8)
    assert "no whole bytes" in refusal(built({"w": field(dtype, [count], 0, size)}, size))


@pytest.mark.parametrize(
    "shape",
    [[2**64], [2**32, 2**32], [2**63, 4, 0], [0, 2**64], [2**61], [2**31] * 5, [10**40]],
)
def test_overflow(shape: list[int]) -> None:
    assert "overflows 64 bits" in refusal(built({"w": field("F64", shape, 0, 0)}, 0))


def test_large_factors_before_a_zero_that_do_not_overflow() -> None:
    assert parse(built({"w": field("U8", [2**32, 2**31, 0], 0, 0)}, 0)).entries


def test_overlap_gap_and_late_start() -> None:
    overlap = {"a": field("U8", [4], 0, 4), "b": field("U8", [4], 2, 6)}
    told = refusal(built(overlap, 6))
    assert "overlap of 2 bytes: tensor 'a' ends at 4 and tensor 'b' starts at 2" in told
    gap = {"a": field("U8", [4], 0, 4), "b": field("U8", [4], 7, 11)}
    told = refusal(built(gap, 11))
    assert "gap of 3 bytes: tensor 'a' ends at 4 and tensor 'b' starts at 7" in told
    assert "tensor 'a' is the first and starts at 2" in refusal(
        built({"a": field("U8", [4], 2, 6)}, 6)
    )


def test_same_bytes_for_two_tensors() -> None:
    twice = {"a": field("U8", [4], 0, 4), "b": field("U8", [4], 0, 4)}
    assert "overlap of 4 bytes" in refusal(built(twice, 4))


def test_cut_short_and_trailing_bytes() -> None:
    file = built({"a": field("U8", [4], 0, 4), "w": field("F32", [3], 4, 16)}, 16)
    size = len(file)
    told = refusal(file[:-5])
    assert f"cut short: has {size - 5} bytes, needs {size}, where tensor 'w' ends" in told
    assert f"2 trailing bytes after its last tensor: has {size + 2}, needs {size}" in refusal(
        file + b"xx"
    )
    assert "1 trailing bytes" in refusal(built({}, 1))


def test_dimensions_are_bounded() -> None:
    assert parse(built({"w": field("U8", [1] * MAX_DIMENSIONS, 0, 1)}, 1)).entries
    told = refusal(built({"w": field("U8", [1] * (MAX_DIMENSIONS + 1), 0, 1)}, 1))
    assert f"has {MAX_DIMENSIONS + 1} dimensions, and {MAX_DIMENSIONS} are the most" in told


def test_ten_thousand_dimensions_of_the_largest_number_are_not_multiplied() -> None:
    told = refusal(built({"w": field("U8", [2**64 - 1] * 10_000, 0, 1)}, 1))
    assert "tensor 'w' has more than 64 dimensions" in told or "10000 dimensions" in told
