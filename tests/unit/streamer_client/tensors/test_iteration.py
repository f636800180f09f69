"""Tensors are handed out in file order: as views where their shard is mapped, else as private
copies.
"""

from __future__ import annotations

import random
import threading

import pytest
import torch
from tests.support.paper_feed import BLOCK, PaperFeed, shard_of

from streamer_client.copy.destination import host_memory
from streamer_client.copy.feed import FeedClosed
from streamer_client.tensors.headers import Headers
from streamer_client.tensors.iteration import tensors

CPU = torch.device("cpu")
RANDOM = random.Random(5)
TENSORS = [
    {f"{shard}.{at}": ("U8", [size], RANDOM.randbytes(size)) for at, size in enumerate(sizes)}
    for shard, sizes in enumerate(((70, 0, 300, 1), (5,), (128, 64, 64, 900)))
]
FILES = tuple(shard_of(one) for one in TENSORS)
EXPECTED = {name: data for one in TENSORS for name, (_, _, data) in one.items()}
FIRST_TENSOR = -(-(len(FILES[0]) - 301) // BLOCK)
"""Blocks up to the end of the first tensor, so that the other tensors of its shard have no view."""
EVERYTHING = {shard: -(-len(file) // BLOCK) for shard, file in enumerate(FILES)}


def read(feed: PaperFeed, names: frozenset[str] | None = None) -> dict[str, bytes]:
    headers = Headers(feed)
    if names is not None:
        headers.all()
    found: dict[str, bytes] = {}
    for batch in tensors(feed, headers, CPU, names):
        while batch:
            entry, tensor = batch.pop()
            assert entry.name not in found, "handed out twice"
            found[entry.name] = bytes(host_memory(tensor))
    return found


@pytest.mark.parametrize(
    "mapped",
    [
        {},
        EVERYTHING,
        {0: EVERYTHING[0]},
        {0: FIRST_TENSOR},
        {0: EVERYTHING[0], 1: 1},
        {2: EVERYTHING[2]},
    ],
    ids=["copies", "views", "one shard", "one tensor", "no second header", "the last alone"],
)
def test_all_tensors_in_file_order_however_much_is_mapped(mapped: dict[int, int]) -> None:
    feed = PaperFeed(*FILES, mapped=mapped)
    found = read(feed)
    assert list(found) == list(EXPECTED)
    assert found == EXPECTED
    assert len(feed.passes) == (mapped != EVERYTHING)
    assert not feed.left_blocks or mapped == EVERYTHING


def test_only_the_named_tensors_and_their_blocks() -> None:
    names = frozenset({"0.2", "2.3"})
    feed = PaperFeed(*FILES)
    assert read(feed, names) == {name: EXPECTED[name] for name in ("0.2", "2.3")}
    wanted = sum(one.stop - one.start for one in feed.passes[-1])
    assert wanted <= 300 // BLOCK + 2 + 900 // BLOCK + 2


def test_views_are_of_the_mapping_and_a_misaligned_one_is_a_copy() -> None:
    file = shard_of({"a": ("U8", [3], b"abc"), "b": ("F32", [2], bytes(range(8)))})
    offset = -(len(file) - 11) % 4
    file = shard_of({"a": ("U8", [3], b"abc"), "b": ("F32", [2], bytes(range(8)))}, offset)
    feed = PaperFeed(file, mapped={0: -(-len(file) // BLOCK)})
    (((_, first),), ((_, second),)) = list(tensors(feed, Headers(feed), CPU, None))
    assert first.untyped_storage().nbytes() == 3, "a storage that ends where the tensor ends"
    assert bytes(host_memory(second)) == bytes(range(8))
    assert second.data_ptr() % 4 == 0


class LateFeed(PaperFeed):
    """The first tensor's block comes once nearly all others were copied, or after a moment."""

    def __init__(self, file: bytes, late_block: int) -> None:
        super().__init__(file)
        self.late_block = late_block
        self.most_copied_ahead = 0
        self.enough = threading.Event()

    def wait(self, number: int, shard: int, block: int) -> None:
        if block == self.late_block:
            self.enough.wait(0.5)
            self.most_copied_ahead = len(self.consumed_blocks) - block
        super().wait(number, shard, block)

    def consumed(self, number: int, shard: int, block: int) -> None:
        super().consumed(number, shard, block)
        if len(self.consumed_blocks) > self.late_block + 80:
            self.enough.set()


def test_what_is_copied_ahead_of_the_caller_is_bounded() -> None:
    sizes = [BLOCK] * 100
    stored = {f"t{at}": ("U8", [size], bytes(size)) for at, size in enumerate(sizes)}
    file = shard_of(stored, padding=-len(shard_of(stored)) % BLOCK)
    feed = LateFeed(file, len(file) // BLOCK - 100)
    feed.read_ahead_bytes = 5 * BLOCK
    assert sum(len(batch) for batch in tensors(feed, Headers(feed), CPU, None)) == 100
    assert 1 <= feed.most_copied_ahead <= 10


def test_small_tensors_of_a_device_are_handed_out_from_the_end_of_their_list() -> None:
    """Only a device's tensors come in lists of several; `meta` stands for a device."""
    feed = PaperFeed(*FILES)
    names: list[str] = []
    sizes: list[int] = []
    for batch in tensors(feed, Headers(feed), torch.device("meta"), None):
        sizes.append(len(batch))
        while batch:
            names.append(batch.pop()[0].name)
    assert names == list(EXPECTED)
    assert sizes == [len(one) for one in TENSORS]


def test_an_iteration_that_is_left_ends_its_pass() -> None:
    feed = PaperFeed(*FILES)
    found = tensors(feed, Headers(feed), CPU, None)
    next(found)
    found.close()  # type: ignore[attr-defined]  # `found` is a generator
    assert feed.ended == [1]


def test_another_pass_ends_an_iteration() -> None:
    feed = PaperFeed(*(shard_of({f"{n}": ("U8", [9000], bytes(9000))}) for n in range(3)))
    found = tensors(feed, Headers(feed), CPU, None)
    next(found)
    feed.end(1)
    feed.begin(())
    with pytest.raises(FeedClosed):
        list(found)
