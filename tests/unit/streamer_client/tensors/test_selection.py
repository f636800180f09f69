"""The catalog by name, the choice of tensors, and the blocks that a pass reads for it."""

from __future__ import annotations

import pytest
from tests.support.paper_feed import BLOCK, PaperFeed, shard_of, u8

from streamer_client.contract.layout import BlockRange
from streamer_client.tensors.headers import Headers
from streamer_client.tensors.selection import Catalog, CatalogEntry, by_name, reading_order

FILES = (
    shard_of({"b": u8(b"x" * 200), "a": ("F32", [3, 1], bytes(12)), "c": u8(b"y" * 200)}),
    b"",
    shard_of({"d": u8(b"z" * 500)}),
)


def whole(shard: int) -> BlockRange:
    return BlockRange(shard, 0, -(-len(FILES[shard]) // BLOCK))


def test_the_catalog_is_in_file_order_and_tells_where_each_tensor_is() -> None:
    feed = PaperFeed(FILES[0], FILES[2])
    catalog = Catalog(Headers(feed).all())
    assert list(catalog) == ["b", "a", "c", "d"]
    assert len(catalog) == 4
    start = len(FILES[0]) - 412
    assert catalog["a"] == CatalogEntry("a", "F32", (3, 1), start + 200, start + 212, "/0")
    assert catalog["d"].uri == "/1"
    with pytest.raises(KeyError):
        catalog["e"]
    assert catalog.metadata == {"/0": {}, "/1": {}}


def test_unknown_shards_are_read_whole_and_empty_files_not_at_all() -> None:
    feed = PaperFeed(*FILES)
    order = reading_order(feed, Headers(feed), by_name(None))
    assert order == (whole(0), whole(2))
    assert reading_order(feed, Headers(feed), by_name(None), first=1) == (whole(2),)


def test_of_known_shards_only_blocks_of_the_chosen_tensors_are_read() -> None:
    feed = PaperFeed(FILES[0], FILES[2])
    headers = Headers(feed)
    first, _ = headers.all()
    spans = {entry.name: (entry.start, entry.stop) for entry in first.entries}

    def blocks(*names: str) -> set[int]:
        order = reading_order(feed, headers, by_name(frozenset(names)))
        assert all(shard == 0 for shard, _, _ in order)
        listed = [block for _, start, stop in order for block in range(start, stop)]
        assert listed == sorted(set(listed)), "each block once, ascending"
        return set(listed)

    def holding(name: str) -> set[int]:
        start, stop = spans[name]
        return set(range(start // BLOCK, -(-stop // BLOCK)))

    for names in (["b"], ["a"], ["c"], ["b", "c"], ["b", "a", "c"]):
        assert blocks(*names) == set().union(*map(holding, names))
    assert blocks("e") == set()


def test_names_are_chosen_in_file_order() -> None:
    (catalog,) = Headers(PaperFeed(FILES[0])).all()
    assert [one.name for one in by_name(frozenset("cb"))(0, catalog)] == ["b", "c"]
    assert [one.name for one in by_name(None)(0, catalog)] == ["b", "a", "c"]
