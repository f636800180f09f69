"""The header of a safetensors file: its text, parsed and validated into a catalog.

Owns every rule of the format that is about the text
(https://github.com/huggingface/safetensors#format): eight bytes of little-endian header length,
that many bytes of JSON, then the tensors' bytes. `catalog.py` owns the rules about the tensors'
numbers. Accepts nothing that the `safetensors` package rejects. It is stricter where that package
would silently drop something: duplicate keys, and fields of a tensor that the format does not
define. It also refuses more dimensions than torch and numpy work with. Pure: the caller has read
the bytes, in any thread.

A header may be 100 MB long and say anything. It is cut into pieces between two tensors, and each
piece is decoded, checked and freed before the next. So the memory in use is that of the catalog and
of one piece, and the time is in proportion to the header's length.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from math import prod
from operator import attrgetter
from typing import Annotated, Final, NoReturn

import msgspec

from streamer_client.contract.limits import (
    HEADER_PIECE_BYTES,
    MAX_CATALOG_ENTRIES,
    MAX_DIMENSIONS,
    MAX_HEADER_BYTES,
    MAX_METADATA_ENTRIES,
)
from streamer_client.contract.printable import printable
from streamer_client.contract.safetensors.catalog import (
    DTYPE_BITS,
    MAX_COUNT,
    ShardCatalog,
    TensorEntry,
    check_cover,
    corrupt,
    quoted,
    refuse_tensor,
    shown_tensor,
)

LENGTH_BYTES: Final = 8

_DTYPES: Final = {dtype: dtype for dtype in DTYPE_BITS}
"""The names of dtypes, so that all tensors of one dtype share one string in memory."""

_METADATA: Final = "__metadata__"
_LFS_POINTER: Final = b"version "
_SPACE: Final = b" \t\n\r"
_LONG_FIELD_BYTES: Final = 4096
"""A description this long has spaces in it or too many dimensions."""
_FIELD_COMMAS: Final = MAX_DIMENSIONS + 2
"""The most commas in a tensor's description: between dimensions, offsets and three members."""
_SHARED_SHAPES: Final = 4096
"""How many different shapes entries share; models have some dozens."""

_OPENED: Final = re.compile(rb"[ \t\n\r]*+\{")
_STRING: Final = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_MEMBER: Final = re.compile(
    rb"\s*+%b\s*+:\s*+(?:null|\{(?:[^\"{}]++|%b)*+\})\s*+" % (_STRING, _STRING), re.DOTALL
)
"""A name and an object without another inside; the decoder checks everything else."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Field(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A tensor as the header describes it; offsets count from the end of the header."""

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
        prefix: the file's first eight bytes or more, or all of a shorter file.
        uri: the file, for the text of errors.
        size_bytes: the file's size.

    Raises:
        CorruptCheckpoint: the file is too short, or its first bytes give an impossible length.
    """
    if size_bytes == 0:
        corrupt(uri, "the file is empty")
    if size_bytes < LENGTH_BYTES:
        corrupt(uri, f"cut short: has {size_bytes} bytes, a header length alone needs 8")
    if len(prefix) < LENGTH_BYTES:
        raise ValueError(f"needs the first {LENGTH_BYTES} bytes of {uri}, not {len(prefix)}")
    if prefix[:LENGTH_BYTES] == _LFS_POINTER:
        corrupt(uri, "this looks like a Git LFS pointer, not the file itself", "run `git lfs pull`")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        corrupt(
            uri,
            f"its first 8 bytes tell a header of {length} bytes, and {MAX_HEADER_BYTES} is the "
            "most; it is no safetensors file, or its start was overwritten",
        )
    if LENGTH_BYTES + length > size_bytes:
        corrupt(
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
    reading = _HeaderReading(uri, size_bytes, data_start)
    if data_start - LENGTH_BYTES <= HEADER_PIECE_BYTES:
        reading.take(bytes(header[LENGTH_BYTES:]))
    else:
        for piece in _pieces(header, uri):
            reading.take(piece)
    return reading.catalog()


# --- pieces of a long header --------------------------------------------------------------------


def _pieces(header: bytes | bytearray, uri: str) -> Iterator[bytes]:
    """Cut a long header into JSON objects, each with some of its members, in their order."""
    at, stop = _inside(header, uri)
    while True:
        cut = _cut(header, at, stop, uri)
        piece = b"{%b}" % bytes(header[at:cut])
        if not piece[1:-1].strip(_SPACE):
            corrupt(uri, f"the header is not JSON (no member at byte {at})")
        yield piece
        if cut == stop:
            return
        at = cut + 1


def _inside(header: bytes | bytearray, uri: str) -> tuple[int, int]:
    """Where the members of the header's one object start and stop, between its braces."""
    stop = len(header)
    while stop > LENGTH_BYTES:
        tail = header[max(LENGTH_BYTES, stop - HEADER_PIECE_BYTES) : stop]
        stop -= len(tail) - len(tail.rstrip(_SPACE))
        if tail.rstrip(_SPACE):
            break
    opened = _OPENED.match(header, LENGTH_BYTES, stop)
    if opened is None or header[stop - 1] != ord("}"):
        corrupt(uri, "the header is not a JSON object")
    return opened.end(), stop - 1


def _cut(header: bytes | bytearray, at: int, stop: int, uri: str) -> int:
    """Where the piece from `at` ends: at the comma behind a member, or at `stop`.

    Something that looks like the end of a member may be part of a name. Then the number of quotes
    before it is odd, and the members are walked one by one. They are also walked if nothing looks
    like the end of a member.
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
            corrupt(uri, f"the header is not JSON of an object for each tensor (at byte {place})")
        cut, place = member.end(), member.end() + 1
    return cut


# --- what the pieces say ------------------------------------------------------------------------


class _HeaderReading:
    """The tensors of one header, as far as its pieces were read."""

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
        """Shapes found so far, to be shared, with their numbers of elements."""
        self._pieces = 0

    def take(self, piece: bytes) -> None:
        """Add the tensors and the metadata that are members of one piece."""
        self._pieces += 1
        fields = self._decoded(piece)
        if len(self._entries) + len(fields) > MAX_CATALOG_ENTRIES:
            corrupt(self._uri, f"the header has more than {MAX_CATALOG_ENTRIES} tensors")
        self._add(fields)

    def _decoded(self, piece: bytes) -> dict[str, _Field]:
        """Decode a piece in one call, or member by member to tell what is wrong with it."""
        if len(piece) <= 2 * HEADER_PIECE_BYTES and b"-0" not in piece:
            try:
                fields = _piece_decoder.decode(piece)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                pass  # a member is `__metadata__`, or something is wrong
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
        """Check each tensor and note it, in a loop without calls, as there may be a million.

        To save memory, equal shapes and dtypes share one object, and so do an end and the next
        start.
        """
        shapes, base, at, gapless = self._shapes, self._data_start, self._at, self._gapless
        add = self._entries.append
        for name, field in fields.items():
            (start, stop), dtype = field.data_offsets, field.dtype
            shared = shapes.get(field.shape)
            if shared is None:
                easy = len(field.shape) <= MAX_DIMENSIONS
                shared = field.shape, prod(field.shape) if easy else 0
                if len(shapes) < _SHARED_SHAPES:
                    shapes[field.shape] = shared
            shape, count = shared
            bits = count * DTYPE_BITS.get(dtype, 0)
            if not 0 < bits <= MAX_COUNT or bits != 8 * (stop - start) or stop > MAX_COUNT:
                refuse_tensor(name, dtype, field.shape, (start, stop), self._uri)
            if base + start != at:
                gapless, at = False, base + start
            entry_start, at = at, base + stop
            add(TensorEntry(name, _DTYPES[dtype], shape, entry_start, at))
        self._at, self._gapless = at, gapless

    def catalog(self) -> ShardCatalog:
        """The catalog of all tensors, once every piece was taken."""
        entries = self._entries
        if self._pieces > 1:
            self._check_names()
        if not self._gapless:
            entries.sort(key=attrgetter("stop"))  # orders empty tensors, which share a start,
            entries.sort(key=attrgetter("start"))  # as the next sort keeps the order of equals
        if not self._gapless or self._at != self._size_bytes:
            check_cover(entries, self._data_start, self._uri, self._size_bytes)
        return ShardCatalog(
            self._uri, self._size_bytes, self._data_start, tuple(entries), self._metadata or {}
        )

    def _check_names(self) -> None:
        """Refuse a name that occurs in two pieces."""
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
        corrupt(uri, f"the header is not UTF-8 ({error.reason} at byte {error.start})", cause=error)
    try:
        return _top_decoder.decode(body)
    except msgspec.ValidationError as error:
        corrupt(uri, f"the header is not a JSON object ({_said(error)})", cause=error)
    except (msgspec.DecodeError, RecursionError) as error:
        corrupt(uri, f"the header is not JSON ({_said(error)})", cause=error)


def _metadata(raw: msgspec.Raw, uri: str) -> dict[str, str] | None:
    """The `__metadata__` member; None when it is null, which the format allows."""
    if _quotes(bytes(raw)) > 4 * MAX_METADATA_ENTRIES:
        corrupt(uri, f"{_METADATA} has more than {MAX_METADATA_ENTRIES} entries")
    try:
        return _metadata_decoder.decode(raw)
    except msgspec.DecodeError as error:
        corrupt(uri, f"{_METADATA} must map strings to strings ({_said(error)})", cause=error)


def _field(name: str, raw: msgspec.Raw, uri: str) -> _Field:
    told = bytes(raw)
    if len(told) > _LONG_FIELD_BYTES and told.count(b",") > _FIELD_COMMAS:
        corrupt(
            uri, f"{shown_tensor(name)} has more than {MAX_DIMENSIONS} dimensions, or other parts"
        )
    try:
        field = _field_decoder.decode(told)
    except msgspec.DecodeError as error:
        corrupt(uri, f"{shown_tensor(name)} is described wrongly ({_said(error)})", cause=error)
    if b"-" in told:  # only `-0` gets here, which is no unsigned integer
        corrupt(uri, f"{shown_tensor(name)} has a negative zero among its numbers")
    return field


def _quotes(text: bytes | bytearray) -> int:
    """How many quotes of a JSON text begin or end a string: those without a backslash before."""
    quotes = text.count(b'"')
    if b"\\" in text:
        if b"\\\\" in text:
            text = text.replace(b"\\\\", b"")  # a backslash that escapes another escapes no quote
        quotes -= text.count(b'\\"')
    return quotes


def _check_duplicates(piece: bytes, strings: int, uri: str) -> None:
    """Refuse duplicate keys, which the decoder lets pass.

    Each tensor accounts for five strings (name, three keys, dtype) and each metadata entry for two.
    So the count of strings tells whether the decoder dropped anything. Only then the text is parsed
    again, by a slower parser, to find the key.
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
        with contextlib.suppress(ValueError, RecursionError):  # in parts that msgspec skipped
            json.loads(piece, object_pairs_hook=look)
    corrupt(uri, "the header has a key twice in one object")


def _twice(key: str, uri: str) -> NoReturn:
    corrupt(uri, f"the header has the key {quoted(key)} twice in one object")


def _said(error: Exception) -> str:
    """The decoder's message, which may quote unknown input."""
    return printable(str(error))
