"""Headers are read once, block by block, whatever their length, and a name is in one shard only."""

from __future__ import annotations

from unittest import mock

import pytest
from tests.support.paper_feed import BLOCK, PaperFeed, shard_of, u8

from streamer_client.contract.errors import CorruptCheckpoint
from streamer_client.contract.layout import BlockRange
from streamer_client.tensors import headers as headers_module
from streamer_client.tensors.headers import Headers

SHORT = shard_of({"a": u8(b"x" * 200)})
LONG = shard_of({"b": u8(b"y" * 100)}, padding=3 * BLOCK)


def blocks_of_header(file: bytes) -> int:
    return -(-(8 + int.from_bytes(file[:8], "little")) // BLOCK)


def test_all_reads_first_blocks_together_then_the_rest_of_long_headers() -> None:
    feed = PaperFeed(SHORT, LONG)
    headers = Headers(feed)
    assert [[one.name for one in each.entries] for each in headers.all()] == [["a"], ["b"]]
    short, long = blocks_of_header(SHORT), blocks_of_header(LONG)
    assert feed.passes[0] == (BlockRange(0, 0, 1), BlockRange(1, 0, 1))
    assert feed.passes[1] == tuple(
        BlockRange(shard, 1, stop) for shard, stop in ((0, short), (1, long)) if stop > 1
    )
    assert len(feed.consumed_blocks) == short + long
    assert feed.ended == [1, 2]
    headers.all()
    assert len(feed.passes) == 2, "read twice"


def test_long_headers_are_collected_in_groups_of_a_bounded_size() -> None:
    feed = PaperFeed(*(shard_of({f"t{n}": u8(b"y")}, padding=3 * BLOCK) for n in range(4)))
    length = blocks_of_header(feed.files[0]) * BLOCK
    with mock.patch.object(headers_module, "MAX_HEADER_BYTES", 2 * length):
        assert len(Headers(feed).all()) == 4
    assert [[one.shard for one in order] for order in feed.passes[1:]] == [[0, 1], [2, 3]]


def test_a_pass_gives_back_the_blocks_that_hold_nothing_but_the_header() -> None:
    feed = PaperFeed(LONG)
    number = feed.begin([BlockRange(0, 0, -(-len(LONG) // BLOCK))])
    headers = Headers(feed)
    assert headers.known(0) is None
    catalog = headers.in_pass(number, 0)
    assert headers.known(0) is catalog
    assert feed.consumed_blocks == [(0, block) for block in range(catalog.data_start // BLOCK)]
    assert headers.in_pass(number, 0) is catalog


def test_a_block_that_the_header_fills_to_its_last_byte_is_given_back() -> None:
    bare = shard_of({"a": u8(b"x")})
    file = shard_of({"a": u8(b"x")}, padding=-(len(bare) - 1) % BLOCK)
    feed = PaperFeed(file)
    catalog = Headers(feed).in_pass(feed.begin([BlockRange(0, 0, -(-len(file) // BLOCK))]), 0)
    assert catalog.data_start % BLOCK == 0
    assert feed.left_blocks == {(0, catalog.data_start // BLOCK)}


def test_a_view_reads_in_no_pass_and_ends_where_there_is_no_mapping() -> None:
    count = blocks_of_header(LONG)
    feed = PaperFeed(LONG, LONG, mapped={0: count, 1: count - 1})
    headers = Headers(feed)
    catalog = headers.in_view(0)
    assert catalog is not None
    assert [one.name for one in catalog.entries] == ["b"]
    assert headers.in_view(1) is None
    assert headers.known(1) is None
    assert feed.passes == []


def test_a_name_in_two_shards_is_an_error_of_a_checkpoint_alone() -> None:
    twice = (SHORT, shard_of({"z": u8(b"1"), "a": u8(b"2")}))
    with pytest.raises(CorruptCheckpoint, match="tensor a is in two shards, /0 and /1"):
        Headers(PaperFeed(*twice)).all()
    assert len(Headers(PaperFeed(*twice), unique=False).all()) == 2


def test_a_refused_shard_owns_none_of_its_names() -> None:
    feed = PaperFeed(SHORT, shard_of({"z": u8(b"1"), "a": u8(b"2")}), shard_of({"z": u8(b"3")}))
    headers = Headers(feed)
    order = [BlockRange(at, 0, -(-len(file) // BLOCK)) for at, file in enumerate(feed.files)]
    number = feed.begin(order)
    headers.in_pass(number, 0)
    with pytest.raises(CorruptCheckpoint):
        headers.in_pass(number, 1)
    assert headers.known(1) is None
    assert headers.in_pass(number, 2).uri == "/2"


def test_an_empty_file_is_no_checkpoint() -> None:
    feed = PaperFeed(SHORT, b"")
    with pytest.raises(CorruptCheckpoint, match="/1: the file is empty"):
        Headers(feed).all()
    assert feed.passes[0] == (BlockRange(0, 0, 1),)
