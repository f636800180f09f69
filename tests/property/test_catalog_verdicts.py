"""This project's verdict on a header agrees with that of the safetensors package."""

from __future__ import annotations

import json
from typing import Any

import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.safetensors_files import as_safetensors_reads, built, field, with_length

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.safetensors.catalog import DTYPE_BITS, ShardCatalog
from streamer_client.contract.safetensors.header import header_bytes, parse_header

URI = "/m/x.safetensors"


def ours(file: bytes) -> ShardCatalog | None:
    try:
        total = header_bytes(file[:8], URI, len(file))
        return parse_header(file[:total], URI, len(file))
    except CorruptCheckpoint:
        return None


def theirs(file: bytes) -> dict[str, Any] | None:
    try:
        return as_safetensors_reads(file)
    except safetensors.SafetensorError:
        return None


@st.composite
def members(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """The members of a valid file's header, in any order, and the length of its data."""
    names = draw(st.lists(st.text(max_size=12), max_size=6, unique=True))
    told: dict[str, Any] = {}
    place = 0
    for name in names:
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        bits = DTYPE_BITS[dtype]
        for dim in shape:
            bits *= dim
        if bits % 8:
            shape.append(4)
            bits *= 4
        if name != "__metadata__":
            told[name] = field(dtype, shape, place, place + bits // 8)
            place += bits // 8
    if draw(st.booleans()):
        told["__metadata__"] = draw(st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
    return dict(draw(st.permutations(list(told.items())))), place


@given(members(), st.integers(0, 9), st.booleans())
def test_valid_files_are_read_alike(
    content: tuple[dict[str, Any], int], padding: int, ascii_only: bool
) -> None:
    told, size = content
    body = json.dumps(told, ensure_ascii=ascii_only).encode() + b" " * padding
    file = with_length(body, bytes(place % 251 for place in range(size)))
    catalog, real = ours(file), theirs(file)
    assert catalog is not None
    assert real is not None
    assert {
        entry.name: (entry.dtype, list(entry.shape), file[entry.start : entry.stop])
        for entry in catalog.entries
    } == {name: (was["dtype"], was["shape"], bytes(was["data"])) for name, was in real.items()}


@settings(max_examples=400)
@given(
    members(),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 2), st.binary(max_size=3)), max_size=4),
)
def test_nothing_is_accepted_that_safetensors_rejects(
    content: tuple[dict[str, Any], int], edits: list[tuple[int, int, bytes]]
) -> None:
    """Bytes at any place, also in the header's length, are replaced, removed or inserted."""
    file = built(*content)
    for place, dropped, inserted in edits:
        left = place % (len(file) + 1)
        file = file[:left] + inserted + file[left + dropped :]
    if ours(file) is not None:
        assert theirs(file) is not None


NUMBERS = ("0", "1", "4", "-0", "-1", "1.0", "1e0", "01", "18446744073709551616", "9" * 40)
STRINGS = ("a", "b", "F32", "F4", "U8", "\\u0061", "dtype", "shape", "data_offsets", "__metadata__")
ODD = ("null", "true", '"\\ud800"', '"\\/"', "\t", "\n")
TOKENS = st.sampled_from([*"{}[],: ", *NUMBERS, *(f'"{string}"' for string in STRINGS), *ODD])
WHOLE = '{"a":{"dtype":"U8","shape":[%s],"data_offsets":[0,%s]}}'


@settings(max_examples=400)
@given(
    st.one_of(
        st.lists(TOKENS, max_size=25).map("".join),
        st.tuples(st.lists(TOKENS, max_size=4).map("".join), st.sampled_from(NUMBERS)).map(
            lambda parts: WHOLE % parts
        ),
    ),
    st.integers(0, 8),
)
@example('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', 0)
@example('{"a":{"dtype":"U8","shape":[1],"data_offsets":[-0,1]}}', 1)
def test_headers_made_of_the_formats_own_words(body: str, data_bytes: int) -> None:
    file = with_length(body.encode(), bytes(data_bytes))
    if ours(file) is not None:
        assert theirs(file) is not None
