"""The header parser: what works, and that each broken rule is told by file, tensor and remedy."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import safetensors
from tests.support.parsed_headers import URI, parse, refusal
from tests.support.safetensors_files import as_safetensors_reads, built, field, with_length

from streamer_client.contract.catalog import (
    DTYPE_BITS,
    HEADER_LIMIT_BYTES,
    ShardCatalog,
    TensorEntry,
    header_bytes,
    parse_header,
)


def test_entries_carry_absolute_offsets_in_file_order() -> None:
    file = built(
        {"late": field("I16", [2, 3], 4, 16), "early": field("F32", [1], 0, 4)}, 16, padding=3
    )
    base = len(file) - 16
    assert parse(file) == ShardCatalog(
        uri=URI,
        size_bytes=len(file),
        data_start=base,
        entries=(
            TensorEntry("early", "F32", (1,), base, base + 4),
            TensorEntry("late", "I16", (2, 3), base + 4, base + 16),
        ),
        metadata={},
    )


def test_metadata_is_kept() -> None:
    assert parse(built({"__metadata__": {"format": "pt"}}, 0)).metadata == {"format": "pt"}
    assert parse(built({"__metadata__": None}, 0)).metadata == {}


def test_a_shard_without_tensors() -> None:
    assert parse(built({}, 0)).entries == ()


def test_scalars_and_empty_tensors_in_any_place() -> None:
    members = {
        "first empty": field("F32", [0], 0, 0),
        "scalar": field("F64", [], 0, 8),
        "middle empty": field("BF16", [3, 0, 2], 8, 8),
        "second": field("U8", [2], 8, 10),
        "last empty": field("F4", [0, 7], 10, 10),
        "very last empty": field("I8", [0], 10, 10),
    }
    shapes = {entry.name: entry.shape for entry in parse(built(members, 10)).entries}
    assert shapes == {name: tuple(told["shape"]) for name, told in members.items()}


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


def test_unaligned_data_section_and_escaped_names() -> None:
    body = b'{"a\\"\\u00e9":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    body += b" " * ((3 - len(body)) % 8)
    told = parse(with_length(body, b"1234"))
    assert told.data_start % 8 == 3
    assert [entry.name for entry in told.entries] == ['a"é']


def test_thousands_of_tensors() -> None:
    members = {f"t.{place}": field("U8", [1], place, place + 1) for place in range(10_000)}
    entries = parse(built(members, 10_000)).entries
    assert [entry.name for entry in entries] == list(members)


# --- files that cannot hold a header ------------------------------------------------------------


def test_empty_file() -> None:
    assert "the file is empty" in refusal(b"")


@pytest.mark.parametrize("size", [1, 7])
def test_file_shorter_than_a_length(size: int) -> None:
    assert f"cut short: has {size} bytes" in refusal(b"\2" * size)


def test_header_over_the_limit() -> None:
    told = refusal((HEADER_LIMIT_BYTES + 1).to_bytes(8, "little") + b"{}", HEADER_LIMIT_BYTES * 2)
    assert "100000001 bytes" in told


def test_header_at_the_limit_is_only_a_matter_of_size() -> None:
    prefix = HEADER_LIMIT_BYTES.to_bytes(8, "little")
    assert header_bytes(prefix, URI, HEADER_LIMIT_BYTES + 8) == HEADER_LIMIT_BYTES + 8


def test_header_beyond_the_file() -> None:
    assert "cut short within the header: has 10 bytes, needs 11" in refusal(
        (3).to_bytes(8, "little") + b"{}"
    )


def test_git_lfs_pointer_is_told_as_such() -> None:
    assert "`git lfs pull`" in refusal(b"version https://git-lfs.github.com/spec/v1\noid sha256:0")


def test_a_caller_that_read_too_little_is_told_apart_from_a_bad_file() -> None:
    file = built({}, 0)
    with pytest.raises(ValueError, match="first 8 bytes"):
        header_bytes(file[:5], URI, len(file))
    with pytest.raises(ValueError, match="header bytes"):
        parse_header(file[:-1], URI, len(file))


# --- headers that are not what they should be ---------------------------------------------------


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"\xff":1}', "not UTF-8"),
        (b'{"a":\xed\xa0\x80}', "not UTF-8"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"{}\0", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"{}"', "not a JSON object"),
        (b"{" + b'"a":[' * 100_000, "not JSON"),
        (b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', "not JSON"),
    ],
)
def test_header_that_is_no_json_object(body: bytes, told: str) -> None:
    assert told in refusal(with_length(body))


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        "F32",
        {},
        {"dtype": "F32", "shape": [1]},
        field("F32", [1.0], 0, 4),
        field("F32", [True], 0, 4),
        field("F32", ["1"], 0, 4),
        field("F32", [-1], 0, 4),
        {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 4]},
        {"dtype": 32, "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": "04"},
        {**field("F32", [1], 0, 4), "strides": [1]},
    ],
)
def test_tensor_described_wrongly(value: Any) -> None:
    assert "tensor 'w.q' is described wrongly (" in refusal(built({"w.q": value}, 4))


def test_negative_zero_is_no_unsigned_integer() -> None:
    body = b'{"w":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'
    assert "tensor 'w' has a negative zero" in refusal(with_length(body))


@pytest.mark.parametrize("value", [3, [], {"a": 1}, {"a": None}, {"a": {}}])
def test_bad_metadata(value: Any) -> None:
    assert "__metadata__ must map strings to strings" in refusal(built({"__metadata__": value}, 0))


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ('{"a":FIELD,"a":FIELD}', "a"),
        ('{"a":FIELD,"\\u0061":FIELD}', "a"),
        ('{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}', "dtype"),
        ('{"a":{"dtype":"U8","shape":[0],"sh\\u0061pe":[0],"data_offsets":[0,0]}}', "shape"),
        ('{"__metadata__":{"k":"v","k":"v"}}', "k"),
        ('{"__metadata__":{},"__metadata__":{}}', "__metadata__"),
        ('{"__metadata__":null,"__metadata__":null}', "__metadata__"),
    ],
)
def test_duplicate_keys(body: str, key: str) -> None:
    body = body.replace("FIELD", json.dumps(field("U8", [0], 0, 0)))
    assert f"the key '{key}' twice" in refusal(with_length(body.encode()))


def test_quotes_inside_values_are_no_duplicates() -> None:
    assert parse(built({"__metadata__": {"k": 'say "k" twice: "k"'}}, 0)).metadata


# --- tensors that do not fit --------------------------------------------------------------------


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
