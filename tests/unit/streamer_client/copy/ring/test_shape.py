"""The ring's size: within its bounds on every machine, and as told where it is told."""

from __future__ import annotations

import pytest

from streamer_client.contract.errors import ConfigError
from streamer_client.copy.ring.shape import (
    MOST_PINNED_BYTES,
    RingShape,
    parse_shape,
    ring_shape,
    storage_shape,
)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("cores", [1, 2, 7, 16, 64, 192])
def test_bounds(cores: int, ranks: int) -> None:
    shape = ring_shape(cores, ranks)
    assert 1 <= shape.threads <= max(1, cores // ranks)
    assert shape.slots >= 2
    assert shape.pinned_bytes <= MOST_PINNED_BYTES


@pytest.mark.parametrize("block_bytes", [64 << 10, 8 << 20, 32 << 20])
@pytest.mark.parametrize("threads", [1, 16, 64])
def test_storage_is_read_in_whole_blocks(threads: int, block_bytes: int) -> None:
    shape = storage_shape(threads, block_bytes)
    assert shape.slot_bytes == block_bytes
    assert 1 <= shape.threads <= threads
    assert shape.pinned_bytes <= MOST_PINNED_BYTES


def test_a_shape_that_is_told() -> None:
    assert parse_shape("8x2x4MiB") == RingShape(8, 2, 4 << 20)
    assert parse_shape(" 1x3x4096 ") == RingShape(1, 3, 4096)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("8x2", "THREADSxSLOTSxSIZE"),
        ("8x2xmuch", "not a size"),
        ("0x2x4MiB", "may be 0"),
        ("8x2x5000", "multiple of 4KiB"),
        ("16x2x8MiB", "is the most"),
    ],
)
def test_a_shape_that_cannot_be(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_shape(text)
