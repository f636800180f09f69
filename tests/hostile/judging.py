"""The conditions that anything that arrives must meet, whoever sent it.

An AssertionError shows a broken one.

Work is measured in calls and not by a clock. So work in proportion to a claimed size, and not to
the bytes that came, is found on any machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final
from unittest import mock

import safetensors

from streamer_client.contract.checks import check
from streamer_client.contract.codec import encode
from streamer_client.contract.errors import ConfigError, CorruptCheckpoint, ProtocolMismatch
from streamer_client.contract.messages import Message
from streamer_client.contract.safetensors import header
from streamer_client.contract.safetensors.catalog import ShardCatalog
from streamer_client.contract.safetensors.header import header_bytes, parse_header
from tests.support.safetensors_files import as_safetensors_reads

URI: Final = "/m/x.safetensors"
MOST_TOLD: Final = 1000
"""The most characters of an error's text."""
CALLS_BASE: Final = 400
CALLS_A_BYTE: Final = 2
SMALL_PIECE_BYTES: Final = 100

Decoder = Callable[[bytes], Message]


def judge_frame(decode: Decoder, frame: bytes) -> bool:
    """Whether a frame is a message that may be acted on; any other is refused by the one right
    error.
    """
    try:
        message = decode(frame)
    except ProtocolMismatch as error:
        _told(str(error), frame)
        return False
    assert decode(encode(message)) == message or "nan" in repr(message), frame.hex()
    try:
        check(message)
    except (ConfigError, ProtocolMismatch) as error:
        _told(str(error), frame)
        return False
    return True


def judge_file(file: bytes) -> bool:
    """Whether this project takes a file for safetensors; if so, the safetensors package
    must agree.
    """
    told = _read(file)
    pieced = _read_in_pieces(file)
    assert pieced == told, f"in pieces it is another verdict: {file.hex()}"
    if told is None:
        return False
    try:
        theirs = as_safetensors_reads(file)
    except safetensors.SafetensorError as error:
        raise AssertionError(f"accepted, and safetensors says {error}: {file.hex()}") from error
    ours = {entry.name: (entry.dtype, list(entry.shape)) for entry in told.entries}
    assert ours == {name: (was["dtype"], was["shape"]) for name, was in theirs.items()}, file.hex()
    return True


def _read(file: bytes) -> ShardCatalog | None:
    try:
        total = header_bytes(file[:8], URI, len(file))
    except CorruptCheckpoint as error:
        _told(str(error), file)
        return None
    counted = Calls()
    try:
        with counted:
            return parse_header(file[:total], URI, len(file))
    except CorruptCheckpoint as error:
        _told(str(error), file)
        return None
    finally:
        assert counted.number <= CALLS_BASE + CALLS_A_BYTE * total, file.hex()


def _read_in_pieces(file: bytes) -> ShardCatalog | None:
    with mock.patch.object(header, "HEADER_PIECE_BYTES", SMALL_PIECE_BYTES):
        return _read(file)


class Calls:
    """Counts calls, of Python and of C, while it is entered."""

    def __init__(self) -> None:
        self.number = 0
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.getprofile()
        sys.setprofile(self._count)

    def __exit__(self, *_raised: object) -> None:
        sys.setprofile(self._before)

    def _count(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.number += event in ("call", "c_call")


def _told(text: str, data: bytes) -> None:
    """Check that an error's text is one printable line of bounded length."""
    assert text.isprintable(), f"{text!r} of {data.hex()}"
    assert len(text) <= MOST_TOLD, f"{text!r} of {data.hex()}"
