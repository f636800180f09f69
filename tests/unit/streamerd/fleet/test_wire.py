from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer_client.storage.contract import StoredShard
from streamerd.fleet.wire import (
    LONGEST_WAIT_S,
    Asked,
    block_path,
    block_range,
    checksum_text,
    parse_asked,
    parse_checksum,
    parse_wait_s,
    shard_name,
)

SHARD = StoredShard("s3://b/model.safetensors", 100, "s3:https://store 100 - etag")


def test_what_is_asked_is_understood() -> None:
    name = shard_name(SHARD)
    asked = parse_asked(block_path("gpus", name), block_range(64, 100))
    assert asked == Asked("gpus", name, 64, 100)


@pytest.mark.parametrize(
    "other",
    [
        StoredShard("s3://b/model.safetensor", 100, SHARD.identity),
        StoredShard(SHARD.uri, 101, SHARD.identity),
        StoredShard(SHARD.uri, 100, "s3:https://other 100 - etag"),
    ],
)
def test_another_content_has_another_name(other: StoredShard) -> None:
    assert shard_name(other) != shard_name(SHARD)


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/", "bytes=0-1"),
        ("/v1/gpus/" + "0" * 39, "bytes=0-1"),
        ("/v1/gpus/" + "0" * 40 + "/..", "bytes=0-1"),
        ("/v1/gpus/" + "0" * 40, ""),
        ("/v1/gpus/" + "0" * 40, "bytes=5-4"),
        ("/v1/gpus/" + "0" * 40, "bytes=0-1,3-4"),
        ("/v1/gpus/" + "0" * 40, "bytes=-1"),
        ("/v1/gpus/" + "0" * 40, "bytes=0-" + "9" * 16),
        ("/v1/gpus/" + "0" * 40, "bytes=\u0660-\u0661"),
    ],
)
def test_requests_that_ask_for_no_block_are_not_parsed(path: str, wanted: str) -> None:
    assert parse_asked(path, wanted) is None


@given(st.integers(0, 2**64 - 1))
def test_checksums_travel_as_text(checksum: int) -> None:
    assert parse_checksum(checksum_text(checksum)) == checksum


@pytest.mark.parametrize(
    "value", ["", "0" * 15, "0" * 17, "g" * 16, "-" + "0" * 15, "0x" + "0" * 14]
)
def test_other_text_is_no_checksum(value: str) -> None:
    assert parse_checksum(value) is None


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("", 0.0),
        ("2", 2.0),
        ("1e9", LONGEST_WAIT_S),
        ("-1", 0.0),
        ("nan", 0.0),
        ("inf", LONGEST_WAIT_S),
    ],
)
def test_waits_are_bounded(value: str, wait_s: float) -> None:
    assert parse_wait_s(value) == wait_s
