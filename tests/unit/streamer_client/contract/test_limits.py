"""Real models and real messages stay far below each limit."""

from __future__ import annotations

import tracemalloc

import pytest

from streamer_client.contract import limits
from streamer_client.contract import messages as m
from streamer_client.contract.codec import decode_client, encode
from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES, BlockRange


def test_the_longest_honest_open_fits() -> None:
    names = tuple(f"s3://bucket/{'p' * 200}/model-{n:05}-of-10000" for n in range(10_000))
    frame = encode(m.Open(1, 1, "s3://bucket/" + "p" * 200, 0, names))
    assert len(frame) < limits.MAX_MESSAGE_BYTES
    assert decode_client(frame).files == names  # type: ignore[union-attr]


def test_the_longest_honest_answer_fits() -> None:
    shard = m.OpenedShard("/m/" + "p" * 300, "file:1:2:3:4" * 4, 2**40, True)
    ranges = tuple(BlockRange(n, 0, 1) for n in range(limits.MAX_SHARDS))
    opened = m.Opened(1, 1, 8 << 20, (shard,) * limits.MAX_SHARDS, ranges, 0)
    assert len(encode(opened)) < limits.MAX_ANSWER_BYTES


def test_a_whole_checkpoint_in_single_blocks_fits_a_want() -> None:
    two_tb = 2 * 10**12 // DEFAULT_BLOCK_BYTES
    assert two_tb < limits.MAX_RANGES
    ranges = tuple(BlockRange(0, n, n + 1) for n in range(limits.MAX_RANGES))
    assert len(encode(m.Want(1, ranges))) < limits.MAX_MESSAGE_BYTES


def test_the_limits_of_a_shard_agree_at_the_usual_block() -> None:
    assert limits.MAX_SHARD_BYTES <= limits.MAX_SHARD_BLOCKS * DEFAULT_BLOCK_BYTES
    assert limits.MAX_LOAD_BLOCKS * DEFAULT_BLOCK_BYTES >= 16 << 40


def test_one_peer_that_reads_nothing_may_wait_for_a_longest_answer() -> None:
    assert limits.MAX_QUEUED_BYTES > limits.MAX_ANSWER_BYTES


def test_decoding_the_worst_message_takes_the_memory_that_is_told() -> None:
    tracemalloc.start()
    try:
        decode_client(_want_of(limits.MAX_RANGES))
        assert tracemalloc.get_traced_memory()[1] < 25 * limits.MAX_MESSAGE_BYTES
    finally:
        tracemalloc.stop()


def test_more_ranges_than_the_bound_are_refused_before_one_is_decoded() -> None:
    frame = _want_of((limits.MAX_MESSAGE_BYTES - 64) // 4)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolMismatch, match="length <= "):
            decode_client(frame)
        assert tracemalloc.get_traced_memory()[1] < 64 << 10
    finally:
        tracemalloc.stop()


def _want_of(count: int) -> bytes:
    head = b"\x83\xa4type\xa4Want\xa4load\x01\xa6ranges\xdd"
    return head + count.to_bytes(4, "big") + b"\x93\x01\x02\x03" * count
