"""Parsing the header of a made-up shard, and the text of a refusal to."""

from __future__ import annotations

import re

import pytest

from streamer_client.contract.catalog import (
    ShardCatalog,
    header_bytes,
    parse_header,
)
from streamer_client.contract.errors import CorruptCheckpoint

URI = "/models/m/model-1.safetensors"


def parse(file: bytes, size_bytes: int | None = None) -> ShardCatalog:
    size = len(file) if size_bytes is None else size_bytes
    return parse_header(file[: header_bytes(file[:8], URI, size)], URI, size)


def refusal(file: bytes, size_bytes: int | None = None) -> str:
    with pytest.raises(CorruptCheckpoint) as caught:
        parse(file, size_bytes)
    text = str(caught.value)
    assert text.startswith(f"{URI}: ")
    assert re.search(r"; .*(again|pull|upgrade)", text), f"no remedy in: {text}"
    return text
