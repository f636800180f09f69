"""What a shard holds: the safetensors header, parsed and validated.

Owns every rule of the format (https://github.com/huggingface/safetensors#format): eight bytes of
little-endian header length, that many bytes of JSON, then the tensors' bytes without gap or overlap
up to the end of the file. Accepts nothing that the `safetensors` package rejects; stricter than it
where it would silently drop what somebody wrote: duplicate keys, and fields of a tensor that the
format does not define. Pure: whoever calls has read the bytes, on any thread.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import Annotated, Final, NoReturn

import msgspec

from streamer_client.contract.errors import CorruptCheckpoint

HEADER_LIMIT_BYTES: Final = 100_000_000
"""The longest header that the `safetensors` package reads."""

LENGTH_BYTES: Final = 8

DTYPE_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits of one element. The kinds of fewer than eight are packed, and end on a whole byte."""

_METADATA: Final = "__metadata__"
_MAX_COUNT: Final = 2**64 - 1
_LFS_POINTER: Final = b"version "
_SHOWN_CHARACTERS: Final = 120

_Count = Annotated[int, msgspec.Meta(ge=0)]


class TensorEntry(msgspec.Struct, frozen=True, gc=False):
    """One tensor: bytes `start` to `stop` (half-open) of the file, row-major, little-endian."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class ShardCatalog(msgspec.Struct, frozen=True):
    """All tensors of one shard, by ascending `start`; they cover `data_start` to `size_bytes`."""

    uri: str
    size_bytes: int
    data_start: int
    entries: tuple[TensorEntry, ...]
    metadata: dict[str, str]


class _Field(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A tensor as the header tells it; offsets count from the end of the header."""

    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]


_top_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_field_decoder = msgspec.json.Decoder(_Field)
_fields_decoder = msgspec.json.Decoder(list[_Field])
_metadata_decoder: msgspec.json.Decoder[dict[str, str] | None] = msgspec.json.Decoder(
    dict[str, str] | None
)


def header_bytes(prefix: bytes, uri: str, size_bytes: int) -> int:
    """Length of the whole header, its own eight length bytes included.

    Args:
        prefix: the file's first eight bytes, or more; all of a shorter file.
        uri: the file, for the text of errors.
        size_bytes: the file's size.

    Raises:
        CorruptCheckpoint: the file is too short, or its first bytes tell no possible length.
    """
    if size_bytes == 0:
        _corrupt(uri, "the file is empty")
    if size_bytes < LENGTH_BYTES:
        _corrupt(uri, f"cut short: has {size_bytes} bytes, a header length alone needs 8")
    if len(prefix) < LENGTH_BYTES:
        raise ValueError(f"needs the first {LENGTH_BYTES} bytes of {uri}, not {len(prefix)}")
    if prefix[:LENGTH_BYTES] == _LFS_POINTER:
        _corrupt(
            uri, "this looks like a Git LFS pointer, not the file itself", "run `git lfs pull`"
        )
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > HEADER_LIMIT_BYTES:
        _corrupt(
            uri,
            f"its first 8 bytes tell a header of {length} bytes, and {HEADER_LIMIT_BYTES} is the "
            "most; it is no safetensors file, or its start was overwritten",
        )
    if LENGTH_BYTES + length > size_bytes:
        _corrupt(
            uri,
            f"cut short within the header: has {size_bytes} bytes, "
            f"needs {LENGTH_BYTES + length} for the header alone",
        )
    return LENGTH_BYTES + length


def parse_header(header: bytes, uri: str, size_bytes: int) -> ShardCatalog:
    """Parse and validate the header of one shard.

    Args:
        header: the file's first `header_bytes(...)` bytes.
        uri: the file, for the text of errors and for the catalog.
        size_bytes: the file's size; the tensors must end exactly there.

    Raises:
        CorruptCheckpoint: the header breaks a rule of the format, or does not fit the file's size.
    """
    data_start = header_bytes(header, uri, size_bytes)
    if len(header) != data_start:
        raise ValueError(f"needs the {data_start} header bytes of {uri}, not {len(header)}")
    body = header[LENGTH_BYTES:]
    members = _members(body, uri)
    metadata = _metadata(members.pop(_METADATA, None), uri)
    fields = list(zip(members, _fields(members, uri), strict=True))
    _check_duplicates(body, len(fields), metadata, uri)
    fields.sort(key=lambda item: item[1].data_offsets)
    entries = _entries(fields, data_start, uri, size_bytes)
    return ShardCatalog(uri, size_bytes, data_start, entries, metadata or {})


def _entries(
    fields: list[tuple[str, _Field]], data_start: int, uri: str, size_bytes: int
) -> tuple[TensorEntry, ...]:
    """The tensors, by ascending offsets; what is not right is looked at again, to say why."""
    entries = []
    gapless, at = True, 0
    for name, field in fields:
        start, stop = field.data_offsets
        bits = prod(field.shape) * DTYPE_BITS.get(field.dtype, 0)
        if not 0 < bits <= _MAX_COUNT or bits != 8 * (stop - start):
            _check_size(name, field, uri)
        gapless = gapless and start == at
        at = stop
        entries.append(
            TensorEntry(name, field.dtype, field.shape, data_start + start, data_start + stop)
        )
    if not gapless or data_start + at != size_bytes:
        _check_cover(fields, data_start, uri, size_bytes)
    return tuple(entries)


def _members(body: bytes, uri: str) -> dict[str, msgspec.Raw]:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        _corrupt(
            uri, f"the header is not UTF-8 ({error.reason} at byte {error.start})", cause=error
        )
    try:
        return _top_decoder.decode(body)
    except msgspec.ValidationError as error:
        _corrupt(uri, f"the header is not a JSON object ({error})", cause=error)
    except (msgspec.DecodeError, RecursionError) as error:
        _corrupt(uri, f"the header is not JSON ({error})", cause=error)


def _metadata(raw: msgspec.Raw | None, uri: str) -> dict[str, str] | None:
    """The `__metadata__` member; None when it is absent or null, which the format allows."""
    if raw is None:
        return None
    try:
        return _metadata_decoder.decode(raw)
    except msgspec.DecodeError as error:
        _corrupt(uri, f"{_METADATA} must map strings to strings ({error})", cause=error)


def _fields(members: Mapping[str, msgspec.Raw], uri: str) -> list[_Field]:
    """All of them by one call, for there may be thousands; one by one to tell which is wrong."""
    joined = b",".join(members.values())
    if b"-" not in joined:
        with contextlib.suppress(msgspec.DecodeError):
            return _fields_decoder.decode(b"[%b]" % joined)
    return [_field(name, raw, uri) for name, raw in members.items()]


def _field(name: str, raw: msgspec.Raw, uri: str) -> _Field:
    try:
        field = _field_decoder.decode(raw)
    except msgspec.DecodeError as error:
        _corrupt(uri, f"{_shown(name)} is described wrongly ({error})", cause=error)
    if b"-" in bytes(raw):  # only `-0` gets here: a number, and no unsigned integer
        _corrupt(uri, f"{_shown(name)} has a negative zero among its numbers")
    return field


def _check_duplicates(body: bytes, tensors: int, metadata: dict[str, str] | None, uri: str) -> None:
    """Refuse duplicate keys, which the decoder lets pass.

    Each tensor accounts for five strings (name, three keys, dtype) and each metadata entry for two.
    Without escapes two quotes are one string, so one count tells whether anything was dropped; only
    then, or with escapes, is the text parsed a second, slower time.
    """
    strings = 5 * tensors + (0 if metadata is None else 1 + 2 * len(metadata))
    if b"\\" not in body and body.count(b'"') == 2 * strings:
        return

    def check(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                _corrupt(uri, f"the header has the key {_quoted(key)} twice in one object")
            seen.add(key)

    json.loads(body, object_pairs_hook=check)


def _check_size(name: str, field: _Field, uri: str) -> None:
    bits = DTYPE_BITS.get(field.dtype)
    if bits is None:
        known = ", ".join(DTYPE_BITS)
        _corrupt(
            uri,
            f"{_shown(name)} has the unknown dtype {_quoted(field.dtype)} (known: {known})",
            "if a newer safetensors wrote the file, upgrade streamerd; else save it again",
        )
    start, stop = field.data_offsets
    if stop < start:
        _corrupt(uri, f"{_shown(name)} has decreasing offsets [{start}, {stop}]")
    needed_bits = prod(field.shape) * bits
    if not 0 < needed_bits <= _MAX_COUNT:
        _check_overflow(name, field, bits, uri)
    if needed_bits % 8:
        _corrupt(uri, f"{_described(name, field)} takes {needed_bits} bits, no whole bytes")
    if needed_bits // 8 != stop - start:
        _corrupt(
            uri,
            f"{_described(name, field)} takes {needed_bits // 8} bytes, "
            f"but its offsets [{start}, {stop}] hold {stop - start}",
        )


def _check_overflow(name: str, field: _Field, bits: int, uri: str) -> None:
    """Refuse what overflows 64 bits on the way, even where a later 0 makes the product small."""
    product = 1
    for factor in (*field.shape, bits):
        product *= factor
        if factor > _MAX_COUNT or product > _MAX_COUNT:
            _corrupt(uri, f"{_described(name, field)} overflows 64 bits")


def _check_cover(
    fields: list[tuple[str, _Field]], data_start: int, uri: str, size_bytes: int
) -> None:
    """The tensors, by ascending offsets, must cover the data section without gap or overlap."""
    if fields and (first := fields[0][1].data_offsets[0]):
        _corrupt(uri, f"{_shown(fields[0][0])} is the first and starts at {first} instead of 0")
    for (name, field), (next_name, next_field) in pairwise(fields):
        stop, start = field.data_offsets[1], next_field.data_offsets[0]
        if start != stop:
            kind = "overlap" if start < stop else "gap"
            _corrupt(
                uri,
                f"{kind} of {abs(start - stop)} bytes: {_shown(name)} ends at {stop} "
                f"and {_shown(next_name)} starts at {start}",
            )
    needed = data_start + (fields[-1][1].data_offsets[1] if fields else 0)
    if needed > size_bytes:
        last = f"where {_shown(fields[-1][0])} ends"
        _corrupt(uri, f"cut short: has {size_bytes} bytes, needs {needed}, {last}")
    if needed < size_bytes:
        extra = f"{size_bytes - needed} trailing bytes after its last tensor"
        _corrupt(uri, f"{extra}: has {size_bytes}, needs {needed}")


def _shown(name: str) -> str:
    return f"tensor {_quoted(name)}"


def _described(name: str, field: _Field) -> str:
    return f"{_shown(name)} of dtype {field.dtype} and shape {_short(str(list(field.shape)))}"


def _quoted(text: str) -> str:
    return repr(_short(text))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _corrupt(
    uri: str,
    what: str,
    remedy: str = "download or save the file again",
    cause: BaseException | None = None,
) -> NoReturn:
    raise CorruptCheckpoint(f"{uri}: {what}; {remedy}") from cause
