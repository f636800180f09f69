"""Builds safetensors bytes by hand, even wrong ones, and reads them with the real package."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
import safetensors

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.safetensors.catalog import ShardCatalog
from streamer_client.contract.safetensors.header import header_bytes, parse_header

URI: Final = "/models/m/model-1.safetensors"


def field(dtype: str, shape: list[Any], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def with_length(body: bytes, data: bytes = b"") -> bytes:
    """A file whose header is `body`, with the right length in front."""
    return len(body).to_bytes(8, "little") + body + data


def built(members: dict[str, Any], data_bytes: int, padding: int = 0) -> bytes:
    """A file with these header members and `data_bytes` bytes of data."""
    body = json.dumps(members).encode() + b" " * padding
    return with_length(body, bytes(place % 251 for place in range(data_bytes)))


def as_safetensors_reads(file: bytes) -> dict[str, Any]:
    """Each tensor's dtype, shape and data; raises SafetensorError if the package does."""
    deserialize: Any = safetensors.deserialize
    return dict(deserialize(file))


def parse(file: bytes, size_bytes: int | None = None) -> ShardCatalog:
    """The catalog that this project's parser makes of a file, or of its beginning."""
    size = len(file) if size_bytes is None else size_bytes
    return parse_header(file[: header_bytes(file[:8], URI, size)], URI, size)


def refusal(file: bytes, size_bytes: int | None = None) -> str:
    """The text with which this project's parser refuses a file; it must have a remedy."""
    with pytest.raises(CorruptCheckpoint) as caught:
        parse(file, size_bytes)
    text = str(caught.value)
    assert text.startswith(f"{URI}: ")
    assert re.search(r"; .*(again|pull|upgrade)", text), f"no remedy in: {text}"
    return text
