"""The contents of a shard: its tensors, their dtypes, and the rules that tensors must obey.

Owns the outcome of reading a safetensors header, and every rule of the format that is about numbers
(https://github.com/huggingface/safetensors#format). A tensor has a known dtype, and a shape that
takes as many bytes as its offsets hold; tensors cover the file to its end without gap or overlap.
`header.py` owns the header's text. Pure; runs in the thread that reads a header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NoReturn

import msgspec

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.limits import MAX_DIMENSIONS, MAX_SOURCE_CHARACTERS
from streamer_client.contract.printable import printable

MAX_COUNT: Final = 2**64 - 1
"""The largest count of elements, bytes or bits, as the format has unsigned 64-bit integers."""
_SHOWN_CHARACTERS: Final = 120

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
"""Bits of one element. Elements of fewer than eight bits are packed, to whole bytes in all."""


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


def refuse_tensor(
    name: str, dtype: str, shape: Sequence[int], offsets: tuple[int, int], uri: str
) -> None:
    """Raise an error that says what is wrong with a tensor's description, if anything is.

    Args:
        name: name of the tensor, for the error's text.
        dtype: dtype of the tensor.
        shape: dimensions of the tensor.
        offsets: first byte and the one past the last, counted from the end of the header.
        uri: the file, for the error's text.

    Raises:
        CorruptCheckpoint: the tensor breaks a rule; the text names both.
    """
    bits = DTYPE_BITS.get(dtype)
    if bits is None:
        known = ", ".join(DTYPE_BITS)
        corrupt(
            uri,
            f"{shown_tensor(name)} has the unknown dtype {quoted(dtype)} (known: {known})",
            "if a newer safetensors wrote the file, upgrade streamerd; else save it again",
        )
    start, stop = offsets
    if max(start, stop) > MAX_COUNT:
        corrupt(uri, f"{shown_tensor(name)} has offsets of more than 64 bits")
    if stop < start:
        corrupt(uri, f"{shown_tensor(name)} has decreasing offsets [{start}, {stop}]")
    if len(shape) > MAX_DIMENSIONS:
        corrupt(
            uri,
            f"{shown_tensor(name)} has {len(shape)} dimensions, and {MAX_DIMENSIONS} are the most",
        )
    _check_bytes(name, dtype, shape, bits, (start, stop), uri)


def _check_bytes(
    name: str,
    dtype: str,
    shape: Sequence[int],
    bits: int,
    offsets: tuple[int, int],
    uri: str,
) -> None:
    """Check that elements of so many bits take as many bytes as the offsets hold."""
    start, stop = offsets
    needed_bits = _needed_bits(shape, bits)
    if needed_bits is None:
        corrupt(uri, f"{_described(name, dtype, shape)} overflows 64 bits")
    if needed_bits % 8:
        corrupt(uri, f"{_described(name, dtype, shape)} takes {needed_bits} bits, no whole bytes")
    if needed_bits // 8 != stop - start:
        corrupt(
            uri,
            f"{_described(name, dtype, shape)} takes {needed_bits // 8} bytes, "
            f"but its offsets [{start}, {stop}] hold {stop - start}",
        )


def _needed_bits(shape: Sequence[int], bits: int) -> int | None:
    """The product of the dimensions and an element's bits; None where it overflows 64 bits.

    An overflow counts even if a later 0 makes the product small: `safetensors` refuses that too,
    and so the numbers here stay short.
    """
    product = 1
    for factor in (*shape, bits):
        product = product * factor if factor <= MAX_COUNT else factor
        if product > MAX_COUNT or factor > MAX_COUNT:
            return None
    return product


def check_cover(entries: Sequence[TensorEntry], data_start: int, uri: str, size_bytes: int) -> None:
    """Check that tensors, by ascending offsets, cover the data section without gap or overlap.

    Raises:
        CorruptCheckpoint: the tensors do not; the text names them.
    """
    if entries and (first := entries[0].start - data_start):
        corrupt(
            uri, f"{shown_tensor(entries[0].name)} is the first and starts at {first} instead of 0"
        )
    for before, after in pairwise(entries):
        stop, start = before.stop - data_start, after.start - data_start
        if start != stop:
            kind = "overlap" if start < stop else "gap"
            corrupt(
                uri,
                f"{kind} of {abs(start - stop)} bytes: {shown_tensor(before.name)} ends at {stop} "
                f"and {shown_tensor(after.name)} starts at {start}",
            )
    needed = entries[-1].stop if entries else data_start
    if needed > size_bytes:
        last = f"where {shown_tensor(entries[-1].name)} ends"
        corrupt(uri, f"cut short: has {size_bytes} bytes, needs {needed}, {last}")
    if needed < size_bytes:
        extra = f"{size_bytes - needed} trailing bytes after its last tensor"
        corrupt(uri, f"{extra}: has {size_bytes}, needs {needed}")


def shown_tensor(name: str) -> str:
    """A tensor's name in the form that the text of an error has."""
    return f"tensor {quoted(name)}"


def _described(name: str, dtype: str, shape: Sequence[int]) -> str:
    told = printable(str(list(shape[:MAX_DIMENSIONS])), _SHOWN_CHARACTERS)
    return f"{shown_tensor(name)} of dtype {dtype} and shape {told}"


def quoted(text: str) -> str:
    """A text from a header in the form that the text of an error has."""
    return f"'{printable(text, _SHOWN_CHARACTERS)}'"


def corrupt(
    uri: str,
    what: str,
    remedy: str = "download or save the file again",
    cause: BaseException | None = None,
) -> NoReturn:
    """Raise the error that says how a file breaks the format.

    Args:
        uri: the file.
        what: the fault, worded to follow the file in the text.
        remedy: the user's remedy.
        cause: the error of the decoder that found the fault.

    Raises:
        CorruptCheckpoint: always.
    """
    shown = printable(uri, MAX_SOURCE_CHARACTERS)
    raise CorruptCheckpoint(f"{shown}: {what}; {remedy}") from cause
