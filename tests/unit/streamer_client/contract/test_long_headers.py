"""Headers that would take time or memory, and long ones, which are parsed piece by piece."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from tests.support.parsed_headers import URI, parse, refusal
from tests.support.safetensors_files import built, field, with_length

from streamer_client.contract import catalog
from streamer_client.contract.catalog import (
    header_bytes,
    parse_header,
)
from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.limits import HEADER_PIECE_BYTES, MAX_DIMENSIONS


def test_dimensions_are_bounded() -> None:
    assert parse(built({"w": field("U8", [1] * MAX_DIMENSIONS, 0, 1)}, 1)).entries
    told = refusal(built({"w": field("U8", [1] * (MAX_DIMENSIONS + 1), 0, 1)}, 1))
    assert f"has {MAX_DIMENSIONS + 1} dimensions, and {MAX_DIMENSIONS} are the most" in told


def test_ten_thousand_dimensions_of_the_largest_number_are_not_multiplied() -> None:
    told = refusal(built({"w": field("U8", [2**64 - 1] * 10_000, 0, 1)}, 1))
    assert "tensor 'w' has more than 64 dimensions" in told or "10000 dimensions" in told


@pytest.mark.parametrize("digits", [100, 4300, 5000, 400_000])
def test_numbers_of_any_length(digits: int) -> None:
    body = b'{"w":{"dtype":"U8","shape":[%b],"data_offsets":[0,1]}}' % (b"9" * digits)
    assert len(refusal(with_length(body, b"x"))) < 500
    body = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,%b]}}' % (b"9" * digits)
    assert len(refusal(with_length(body, b"x"))) < 500


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every header is long, and cut within its first tensors."""
    monkeypatch.setattr(catalog, "HEADER_PIECE_BYTES", 120)


@pytest.mark.usefixtures("small_pieces")
class TestLongHeaders:
    """What is cut into pieces is judged as if it were not."""

    def test_tensors_in_any_order_and_metadata_in_any_place(self) -> None:
        members: dict[str, Any] = {f"t{n}": field("U8", [1], n, n + 1) for n in range(40)}
        backwards = dict(reversed(members.items()))
        for place in (0, 17, 40):
            listed = list(backwards.items())
            listed.insert(place, ("__metadata__", {"},": '},"', "k": "v" * 300}))
            told = parse(built(dict(listed), 40, padding=500))
            assert [entry.name for entry in told.entries] == list(members)
            assert told.metadata == {"},": '},"', "k": "v" * 300}

    def test_names_that_look_like_ends_of_tensors(self) -> None:
        members = {'t},"' + str(n) + '\\"},': field("U8", [1], n, n + 1) for n in range(40)}
        assert [entry.name for entry in parse(built(members, 40)).entries] == list(members)

    def test_spaces_anywhere(self) -> None:
        members = {f"t{n}": field("U8", [1], n, n + 1) for n in range(9)}
        for text in (
            json.dumps(members, indent=3),
            json.dumps(members).replace("}, ", " } \t , \n"),
            "\n " + json.dumps(members),
        ):
            assert len(parse(with_length(text.encode(), bytes(9))).entries) == 9

    @pytest.mark.parametrize("distance", [1, 39])
    def test_a_name_in_two_pieces(self, distance: int) -> None:
        names = [f"t{n}" for n in range(40)]
        names[distance] = names[0]
        text = ",".join(
            f'"{name}":{json.dumps(field("U8", [1], n, n + 1))}' for n, name in enumerate(names)
        )
        assert "the key 't0' twice" in refusal(with_length(b"{%b}" % text.encode(), bytes(40)))

    def test_metadata_in_two_pieces(self) -> None:
        text = ",".join(
            f'"t{n}":{json.dumps(field("U8", [1], n, n + 1))}' if n % 20 else '"__metadata__":{}'
            for n in range(40)
        )
        assert "'__metadata__' twice" in refusal(with_length(b"{%b}" % text.encode(), bytes(40)))

    @pytest.mark.parametrize(
        ("cut", "by"),
        [
            (b"}}, ", b"},, "),
            (b"}}", b"},}"),
            (b"}}", b"}"),
            (b"}}", b"}}}"),
            (b"}}", b'},"x":3}'),
            (b"}}", b'},"x":{"a":{}}}'),
            (b'{"t0"', b'{,"t0"'),
            (b'{"t0"', b'"t0"'),
            (b'"t7": {', b'"t7": {{'),
            (b'"t7"', b'"t7'),
            (b'"t7":', b'"t7"'),
            (b'"t7"', b'"t\xff"'),
            (b"[7, 8]}, ", b"[7, 8]}; "),
            (b"[7, 8]}, ", b"[7, 8]}} "),
        ],
    )
    def test_what_is_no_json(self, cut: bytes, by: bytes) -> None:
        members = {f"t{n}": field("U8", [1], n, n + 1) for n in range(20)}
        text = json.dumps(members).encode()
        left, _, right = text.rpartition(cut) if cut == b"}}" else text.partition(cut)
        refusal(with_length(left + by + right, bytes(20)))

    @pytest.mark.parametrize("body", [b" " * 500, b"[" * 500, b"{" * 500, b"}" * 500, b'{"' * 250])
    def test_what_is_nothing_at_all(self, body: bytes) -> None:
        refusal(with_length(body))

    def test_one_long_description_is_not_decoded(self) -> None:
        told = refusal(built({"a": field("U8", [0] * 5000, 0, 0), "b": field("U8", [1], 0, 1)}, 1))
        assert "tensor 'a' has more than 64 dimensions" in told


def test_entries_and_metadata_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_CATALOG_ENTRIES", 5)
    monkeypatch.setattr(catalog, "MAX_METADATA_ENTRIES", 5)
    members = {f"t{n}": field("U8", [1], n, n + 1) for n in range(6)}
    assert "more than 5 tensors" in refusal(built(members, 6))
    metadata = {"__metadata__": {str(n): "" for n in range(6)}}
    assert "more than 5 entries" in refusal(built(metadata, 0))


def test_memory_is_what_the_catalog_takes_and_a_piece() -> None:
    members = {f"model.layers.{n}.weight": field("U8", [1], n, n + 1) for n in range(50_000)}
    file = built(members, 50_000)
    header = bytearray(file[: header_bytes(file[:8], URI, len(file))])
    tracemalloc.start()
    try:
        kept = parse_header(header, URI, len(file))
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(kept.entries) == 50_000
    assert held < 250 * 50_000
    assert peak - held < 25 * HEADER_PIECE_BYTES


def test_names_of_files_cannot_forge_a_line() -> None:
    with pytest.raises(CorruptCheckpoint) as caught:
        parse_header(b"", "/m/a\nERROR x\x1b[m", 0)
    assert str(caught.value).startswith("/m/a\\nERROR x\\x1b[m: the file is empty")


def test_long_names_and_shapes_are_shortened() -> None:
    assert len(refusal(built({"n" * 5000: 1}, 0))) < 500
    assert len(refusal(built({"w": field("U8", [2] * 5000, 0, 1)}, 1))) < 500
