"""The header's text: valid forms, and the error for each broken rule, which names file, tensor and
remedy.
"""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from tests.support.safetensors_files import URI, built, field, parse, refusal, with_length

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.limits import HEADER_PIECE_BYTES, MAX_HEADER_BYTES
from streamer_client.contract.safetensors import header as header_module
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.contract.safetensors.header import header_bytes, parse_header


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
    told = refusal((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", MAX_HEADER_BYTES * 2)
    assert "100000001 bytes" in told


def test_header_at_the_limit_is_only_a_matter_of_size() -> None:
    prefix = MAX_HEADER_BYTES.to_bytes(8, "little")
    assert header_bytes(prefix, URI, MAX_HEADER_BYTES + 8) == MAX_HEADER_BYTES + 8


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


# --- headers that would take time or memory -----------------------------------------------------


@pytest.mark.parametrize("digits", [100, 4300, 5000, 400_000])
def test_numbers_of_any_length(digits: int) -> None:
    body = b'{"w":{"dtype":"U8","shape":[%b],"data_offsets":[0,1]}}' % (b"9" * digits)
    assert len(refusal(with_length(body, b"x"))) < 500
    body = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,%b]}}' % (b"9" * digits)
    assert len(refusal(with_length(body, b"x"))) < 500


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every header is long, and is cut within its first tensors."""
    monkeypatch.setattr(header_module, "HEADER_PIECE_BYTES", 120)


@pytest.mark.usefixtures("small_pieces")
class TestLongHeaders:
    """A header that comes in pieces is judged as a whole one is."""

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
    monkeypatch.setattr(header_module, "MAX_CATALOG_ENTRIES", 5)
    monkeypatch.setattr(header_module, "MAX_METADATA_ENTRIES", 5)
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
