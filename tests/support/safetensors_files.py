"""Builds safetensors bytes by hand, wrong ones too, and asks the real package about them."""

from __future__ import annotations

import json
from typing import Any

import safetensors


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
    """Name to dtype, shape and data; raises SafetensorError for what the package rejects."""
    deserialize: Any = safetensors.deserialize
    return dict(deserialize(file))
