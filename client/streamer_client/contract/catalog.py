"""What a shard holds: the safetensors header, parsed and validated.

Owns every rule of the format (https://github.com/huggingface/safetensors#format): eight bytes of
little-endian header length, that many bytes of JSON, then the tensors' bytes without gap or overlap
up to the end of the file. Accepts nothing that the `safetensors` package rejects; stricter than it
where it would silently drop what somebody wrote: duplicate keys, and fields of a tensor that the
format does not define, and tensors of more dimensions than anything computes with. Pure: whoever
calls has read the bytes, on any thread.

A header may be 100 MB long and say anything. It is cut into pieces between two tensors, and each is
decoded, checked and let go before the next, so that memory is what the catalog itself takes and
what one piece does, and time is in proportion to the header's length.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from operator import attrgetter
from typing import Annotated, Final, NoReturn

import msgspec

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.limits import (
    HEADER_PIECE_BYTES,
    MAX_CATALOG_ENTRIES,
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    MAX_METADATA_ENTRIES,
    MAX_SOURCE_CHARACTERS,
)
from streamer_client.contract.printable import printable

HEADER_LIMIT_BYTES: Final = MAX_HEADER_BYTES

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

_DTYPES: Final = {dtype: dtype for dtype in DTYPE_BITS}
"""One text for each kind, instead of one for each tensor."""

_METADATA: Final = "__metadata__"
_MAX_COUNT: Final = 2**64 - 1
_LFS_POINTER: Final = b"version "
_SHOWN_CHARACTERS: Final = 120
_SPACE: Final = b" \t\n\r"
_LONG_FIELD_BYTES: Final = 4096
"""No tensor is described so long, unless with spaces or more dimensions than there may be."""
_FIELD_COMMAS: Final = MAX_DIMENSIONS + 2
"""At most, in a tensor's description: between its dimensions, its offsets and its three members."""
_KEPT_SHAPES: Final = 4096
"""Different shapes that entries share; models have some dozens."""

_OPENED: Final = re.compile(rb"[ \t\n\r]*+\{")
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_MEMBER: Final = re.compile(
    rb"\s*+%b\s*+:\s*+(?:null|\{(?:[^\"{}]++|%b)*+\})\s*+" % (_STRING, _STRING), re.DOTALL
)
"""A name and an object that holds no other; what else it is, the decoder says."""

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
_piece_decoder = msgspec.json.Decoder(dict[str, _Field])
_field_decoder = msgspec.json.Decoder(_Field)
_metadata_decoder: msgspec.json.Decoder[dict[str, str] | None] = msgspec.json.Decoder(
    dict[str, str] | None
)


def header_bytes(prefix: bytes | bytearray, uri: str, size_bytes: int) -> int:
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


def parse_header(header: bytes | bytearray, uri: str, size_bytes: int) -> ShardCatalog:
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
    reading = _Reading(uri, size_bytes, data_start)
    if data_start - LENGTH_BYTES <= HEADER_PIECE_BYTES:
        reading.take(bytes(header[LENGTH_BYTES:]))
    else:
        for piece in _pieces(header, uri):
            reading.take(piece)
    return reading.catalog()


# --- pieces of a long header --------------------------------------------------------------------


def _pieces(header: bytes | bytearray, uri: str) -> Iterator[bytes]:
    """A long header as JSON objects, each of some of its members, in their order."""
    at, stop = _inside(header, uri)
    while True:
        cut = _cut(header, at, stop, uri)
        piece = b"{%b}" % bytes(header[at:cut])
        if not piece[1:-1].strip(_SPACE):
            _corrupt(uri, f"the header is not JSON (no member at byte {at})")
        yield piece
        if cut == stop:
            return
        at = cut + 1


def _inside(header: bytes | bytearray, uri: str) -> tuple[int, int]:
    """Where the members of the header's one object start and stop: what is between its braces."""
    stop = len(header)
    while stop > LENGTH_BYTES:
        tail = header[max(LENGTH_BYTES, stop - HEADER_PIECE_BYTES) : stop]
        stop -= len(tail) - len(tail.rstrip(_SPACE))
        if tail.rstrip(_SPACE):
            break
    opened = _OPENED.match(header, LENGTH_BYTES, stop)
    if opened is None or header[stop - 1] != ord("}"):
        _corrupt(uri, "the header is not a JSON object")
    return opened.end(), stop - 1


def _cut(header: bytes | bytearray, at: int, stop: int, uri: str) -> int:
    """Where the piece from `at` ends: at the comma behind a member, or at `stop`.

    What looks like the end of a member may lie within a name. Then the quotes before it are odd in
    number, and the members are walked one by one; so they are where nothing looks like that.
    """
    if stop - at <= HEADER_PIECE_BYTES:
        return stop
    cut = header.rfind(b"},", at, at + HEADER_PIECE_BYTES) + 1
    if cut and _quotes(header[at:cut]) % 2 == 0:
        return cut
    place = at
    while place < at + HEADER_PIECE_BYTES:
        member = _MEMBER.match(header, place, stop)
        if member is not None and member.end() == stop:
            return stop
        if member is None or header[member.end()] != ord(","):
            _corrupt(uri, f"the header is not JSON of an object for each tensor (at byte {place})")
        cut, place = member.end(), member.end() + 1
    return cut


# --- what the pieces say ------------------------------------------------------------------------


class _Reading:
    """The tensors found so far."""

    def __init__(self, uri: str, size_bytes: int, data_start: int) -> None:
        self._uri = uri
        self._size_bytes = size_bytes
        self._data_start = data_start
        self._metadata: dict[str, str] | None = None
        self._has_metadata = False
        self._entries: list[TensorEntry] = []
        self._gapless = True
        """Whether each tensor found so far starts where the one before it stops."""
        self._at = data_start
        self._shapes: dict[tuple[int, ...], tuple[tuple[int, ...], int]] = {}
        """Shapes met so far, to be shared, with their numbers of elements."""
        self._pieces = 0

    def take(self, piece: bytes) -> None:
        """Take the members of a JSON object over."""
        self._pieces += 1
        fields = self._decoded(piece)
        if len(self._entries) + len(fields) > MAX_CATALOG_ENTRIES:
            _corrupt(self._uri, f"the header has more than {MAX_CATALOG_ENTRIES} tensors")
        self._add(fields)

    def _decoded(self, piece: bytes) -> dict[str, _Field]:
        """By one call where all is as it should be; else one by one, to tell what is wrong."""
        if len(piece) <= 2 * HEADER_PIECE_BYTES and b"-0" not in piece:
            try:
                fields = _piece_decoder.decode(piece)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # `__metadata__` is among them, or something is wrong
            else:
                _check_duplicates(piece, 5 * len(fields), self._uri)
                return fields
        members = _members(piece, self._uri)
        strings = 0
        if (raw := members.pop(_METADATA, None)) is not None:
            if self._has_metadata:
                _twice(_METADATA, self._uri)
            self._has_metadata = True
            self._metadata = _metadata(raw, self._uri)
            strings = 1 + 2 * len(self._metadata or ())
        fields = {name: _field(name, raw, self._uri) for name, raw in members.items()}
        _check_duplicates(piece, strings + 5 * len(fields), self._uri)
        return fields

    def _add(self, fields: dict[str, _Field]) -> None:
        """Check each for itself, and note it; one loop without calls, for there may be a million.

        Equal shapes and kinds, and an end that is the next one's start, are kept once.
        """
        shapes, base, at, gapless = self._shapes, self._data_start, self._at, self._gapless
        add = self._entries.append
        for name, field in fields.items():
            (start, stop), dtype = field.data_offsets, field.dtype
            kept = shapes.get(field.shape)
            if kept is None:
                easy = len(field.shape) <= MAX_DIMENSIONS
                kept = field.shape, prod(field.shape) if easy else 0
                if len(shapes) < _KEPT_SHAPES:
                    shapes[field.shape] = kept
            shape, count = kept
            bits = count * DTYPE_BITS.get(dtype, 0)
            if not 0 < bits <= _MAX_COUNT or bits != 8 * (stop - start) or stop > _MAX_COUNT:
                _check_size(name, field, self._uri)
            if base + start != at:
                gapless, at = False, base + start
            entry_start, at = at, base + stop
            add(TensorEntry(name, _DTYPES[dtype], shape, entry_start, at))
        self._at, self._gapless = at, gapless

    def catalog(self) -> ShardCatalog:
        """All of them, once the whole was taken."""
        entries = self._entries
        if self._pieces > 1:
            self._check_names()
        if not self._gapless:
            entries.sort(key=attrgetter("stop"))  # which settles the order of empty ones,
            entries.sort(key=attrgetter("start"))  # since sorting keeps the order of equals
        if not self._gapless or self._at != self._size_bytes:
            _check_cover(entries, self._data_start, self._uri, self._size_bytes)
        return ShardCatalog(
            self._uri, self._size_bytes, self._data_start, tuple(entries), self._metadata or {}
        )

    def _check_names(self) -> None:
        """Refuse a name that is in two pieces."""
        names = {entry.name for entry in self._entries}
        if len(names) < len(self._entries):
            seen: set[str] = set()
            for entry in self._entries:
                if entry.name in seen:
                    _twice(entry.name, self._uri)
                seen.add(entry.name)


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
        _corrupt(uri, f"the header is not a JSON object ({_said(error)})", cause=error)
    except (msgspec.DecodeError, RecursionError) as error:
        _corrupt(uri, f"the header is not JSON ({_said(error)})", cause=error)


def _metadata(raw: msgspec.Raw, uri: str) -> dict[str, str] | None:
    """The `__metadata__` member; None when it is null, which the format allows."""
    if _quotes(bytes(raw)) > 4 * MAX_METADATA_ENTRIES:
        _corrupt(uri, f"{_METADATA} has more than {MAX_METADATA_ENTRIES} entries")
    try:
        return _metadata_decoder.decode(raw)
    except msgspec.DecodeError as error:
        _corrupt(uri, f"{_METADATA} must map strings to strings ({_said(error)})", cause=error)


def _field(name: str, raw: msgspec.Raw, uri: str) -> _Field:
    told = bytes(raw)
    if len(told) > _LONG_FIELD_BYTES and told.count(b",") > _FIELD_COMMAS:
        _corrupt(uri, f"{_shown(name)} has more than {MAX_DIMENSIONS} dimensions, or other parts")
    try:
        field = _field_decoder.decode(told)
    except msgspec.DecodeError as error:
        _corrupt(uri, f"{_shown(name)} is described wrongly ({_said(error)})", cause=error)
    if b"-" in told:  # only `-0` gets here: a number, and no unsigned integer
        _corrupt(uri, f"{_shown(name)} has a negative zero among its numbers")
    return field


def _quotes(text: bytes | bytearray) -> int:
    """How many quotes begin or end a string of a JSON text: those without a backslash before."""
    quotes = text.count(b'"')
    if b"\\" in text:
        if b"\\\\" in text:
            text = text.replace(b"\\\\", b"")  # they escape one another
        quotes -= text.count(b'\\"')
    return quotes


def _check_duplicates(piece: bytes, strings: int, uri: str) -> None:
    """Refuse duplicate keys, which the decoder lets pass.

    Each tensor accounts for five strings (name, three keys, dtype) and each metadata entry for two,
    so their count tells whether anything was dropped. Only then the text is parsed a second, slower
    time, to name the key.
    """
    if _quotes(piece) == 2 * strings:
        return

    def look(pairs: list[tuple[str, object]]) -> None:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                _twice(key, uri)
            seen.add(key)

    if len(piece) <= 2 * HEADER_PIECE_BYTES:
        with contextlib.suppress(ValueError, RecursionError):  # of what nobody decoded
            json.loads(piece, object_pairs_hook=look)
    _corrupt(uri, "the header has a key twice in one object")


def _twice(key: str, uri: str) -> NoReturn:
    _corrupt(uri, f"the header has the key {_quoted(key)} twice in one object")


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
    if max(start, stop) > _MAX_COUNT:
        _corrupt(uri, f"{_shown(name)} has offsets of more than 64 bits")
    if stop < start:
        _corrupt(uri, f"{_shown(name)} has decreasing offsets [{start}, {stop}]")
    if len(field.shape) > MAX_DIMENSIONS:
        _corrupt(
            uri,
            f"{_shown(name)} has {len(field.shape)} dimensions, and {MAX_DIMENSIONS} are the most",
        )
    needed_bits = _needed_bits(name, field, bits, uri)
    if needed_bits % 8:
        _corrupt(uri, f"{_described(name, field)} takes {needed_bits} bits, no whole bytes")
    if needed_bits // 8 != stop - start:
        _corrupt(
            uri,
            f"{_described(name, field)} takes {needed_bits // 8} bytes, "
            f"but its offsets [{start}, {stop}] hold {stop - start}",
        )


def _needed_bits(name: str, field: _Field, bits: int, uri: str) -> int:
    """The product of the dimensions and an element's bits.

    It stops at what overflows 64 bits on the way, even where a later 0 makes the product small:
    `safetensors` refuses that too, and no number here grows longer than that.
    """
    product = 1
    for factor in (*field.shape, bits):
        product = product * factor if factor <= _MAX_COUNT else factor
        if product > _MAX_COUNT or factor > _MAX_COUNT:
            _corrupt(uri, f"{_described(name, field)} overflows 64 bits")
    return product


def _check_cover(entries: list[TensorEntry], data_start: int, uri: str, size_bytes: int) -> None:
    """The tensors, by ascending offsets, must cover the data section without gap or overlap."""
    if entries and (first := entries[0].start - data_start):
        _corrupt(uri, f"{_shown(entries[0].name)} is the first and starts at {first} instead of 0")
    for before, after in pairwise(entries):
        stop, start = before.stop - data_start, after.start - data_start
        if start != stop:
            kind = "overlap" if start < stop else "gap"
            _corrupt(
                uri,
                f"{kind} of {abs(start - stop)} bytes: {_shown(before.name)} ends at {stop} "
                f"and {_shown(after.name)} starts at {start}",
            )
    needed = entries[-1].stop if entries else data_start
    if needed > size_bytes:
        last = f"where {_shown(entries[-1].name)} ends"
        _corrupt(uri, f"cut short: has {size_bytes} bytes, needs {needed}, {last}")
    if needed < size_bytes:
        extra = f"{size_bytes - needed} trailing bytes after its last tensor"
        _corrupt(uri, f"{extra}: has {size_bytes}, needs {needed}")


def _shown(name: str) -> str:
    return f"tensor {_quoted(name)}"


def _described(name: str, field: _Field) -> str:
    shape = printable(str(list(field.shape[:MAX_DIMENSIONS])), _SHOWN_CHARACTERS)
    return f"{_shown(name)} of dtype {field.dtype} and shape {shape}"


def _quoted(text: str) -> str:
    return f"'{printable(text, _SHOWN_CHARACTERS)}'"


def _said(error: Exception) -> str:
    """What the decoder says; it may quote what it does not know."""
    return printable(str(error))


def _corrupt(
    uri: str,
    what: str,
    remedy: str = "download or save the file again",
    cause: BaseException | None = None,
) -> NoReturn:
    shown = printable(uri, MAX_SOURCE_CHARACTERS)
    raise CorruptCheckpoint(f"{shown}: {what}; {remedy}") from cause
