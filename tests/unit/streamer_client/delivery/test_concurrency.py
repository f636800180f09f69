from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES
from streamer_client.delivery.concurrency import CHUNK_ENV, chunk_bytes

MIB = 1 << 20


def test_without_the_variable_it_is_the_block_of_a_daemon() -> None:
    assert chunk_bytes("/m", {}) == chunk_bytes("s3://m", {CHUNK_ENV: ""}) == DEFAULT_BLOCK_BYTES


@pytest.mark.parametrize(
    ("uri", "asked", "given"),
    [
        ("/m", 16 * MIB, 16 * MIB),
        ("/m", 1, 2 * MIB),
        ("file:///m", 1, 2 * MIB),
        ("s3://m", 1, 5 * MIB),
        ("s3://m", 32 * MIB, 32 * MIB),
        ("/m", 3_000_001, 3_002_368),
    ],
)
def test_it_has_a_floor_and_is_whole_pages(uri: str, asked: int, given: int) -> None:
    assert chunk_bytes(uri, {CHUNK_ENV: str(asked)}) == given
    assert given % 4096 == 0


@pytest.mark.parametrize("text", ["8MiB", "0", "-1", "1.5"])
def test_what_is_no_number_of_bytes_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=f"{CHUNK_ENV} is '?{text}"):
        chunk_bytes("/m", {CHUNK_ENV: text})
