"""Slices that are staged before they are asked for: their bytes are right, within the bound, and
nothing is left.
"""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from tests.support.rings import OpenFile, stored_in_memory

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.copy import gather
from streamer_client.copy.cut import Cut
from streamer_client.copy.feed import FeedClosed, FeedShard, Route
from streamer_client.copy.gather import Gatherer
from streamer_client.copy.host_gather import HostGather
from streamer_client.copy.slice import Slice, Source
from streamer_client.tensors.foretelling import Foretelling, RankPlace
from streamer_client.tensors.lazy import LazyTensor
from streamer_client.tensors.selection import by_name
from streamer_client.tensors.sliced import SlicedTensors

CPU = torch.device("cpu")
ROWS, COLUMNS, LAYERS = 8, 64, 12
LARGE_BYTES, SMALL_BYTES = ROWS * COLUMNS, COLUMNS
LAYER_BYTES = 2 * LARGE_BYTES + SMALL_BYTES
DATA = os.urandom(LAYERS * LAYER_BYTES)


def catalog() -> ShardCatalog:
    """Layers of two large weights and a small one, of type bytes."""
    entries: list[TensorEntry] = []
    for layer in range(LAYERS):
        at = layer * LAYER_BYTES
        for name, shape in (
            ("up_proj.weight", (ROWS, COLUMNS)),
            ("down_proj.weight", (ROWS, COLUMNS)),
            ("norm", (COLUMNS,)),
        ):
            stop = at + shape[0] * (shape[1] if len(shape) > 1 else 1)
            entries.append(TensorEntry(f"layers.{layer}.{name}", "U8", shape, at, stop))
            at = stop
    return ShardCatalog("/the/shard", len(DATA), 0, tuple(entries), {})


def stored(name: str) -> torch.Tensor:
    entry = next(entry for entry in catalog().entries if entry.name == name)
    flat = torch.frombuffer(bytearray(DATA[entry.start : entry.stop]), dtype=torch.uint8)
    return flat.view(entry.shape)


class StandingFeed:
    """A feed whose one shard is in memory until `gone` is called."""

    block_bytes = 256
    route = Route.DAEMON
    direct_bytes = 0

    def __init__(self, fd: int) -> None:
        self.shards = (FeedShard("/the/shard", len(DATA)),)
        self.gone = False
        self._fd = fd

    def standing(self, number: int, span: BlockRange, *, wait: bool = True) -> OpenFile | None:
        assert (number, span.shard, span.start < span.stop) == (1, 0, True)
        return None if self.gone else OpenFile(self._fd)

    def end(self, number: int) -> None:
        assert number == 1


class Watched(Gatherer):
    """An engine that records the gathered slices, and how many foretold bytes are in use."""

    def __init__(self) -> None:
        super().__init__(HostGather(2), CPU)
        self.begun: list[tuple[Cut, bool]] = []
        self.most_ahead_bytes = 0
        self._flats: list[weakref.ref[torch.Tensor]] = []

    def begin(self, source: Source, cut: Cut, told: str, *, foretold: bool = False) -> Slice:
        made = super().begin(source, cut, told, foretold=foretold)
        self.begun.append((cut, foretold))
        if foretold:
            self._flats.append(weakref.ref(made.flat))
        self.most_ahead_bytes = max(self.most_ahead_bytes, self.ahead_bytes)
        return made

    @property
    def ahead_bytes(self) -> int:
        return sum(flat.nbytes for one in self._flats if (flat := one()) is not None)


@pytest.fixture
def feed() -> Iterator[StandingFeed]:
    with stored_in_memory(DATA) as fd:
        yield StandingFeed(fd)


def tensors(
    feed: StandingFeed,
    gatherer: Gatherer,
    ahead_bytes: int = 1 << 20,
    foretelling: Foretelling | None = None,
) -> SlicedTensors:
    return SlicedTensors(
        cast("Any", feed),
        [catalog()],
        by_name(None),
        CPU,
        gatherer,
        foretelling or Foretelling(),
        number=1,
        small_bytes=SMALL_BYTES,
        ahead_bytes=ahead_bytes,
    )


Cutting = Callable[[int, str, torch.Tensor], torch.Tensor]


def halves(layer: int, name: str, weight: torch.Tensor) -> torch.Tensor:
    del layer
    return weight[:, COLUMNS // 2 :] if "down" in name else weight[ROWS // 2 :]


def ever_new(layer: int, name: str, weight: torch.Tensor) -> torch.Tensor:
    """Each layer wants other rows, so every guess is wrong."""
    del name
    return weight[layer % ROWS :]


def load(found: SlicedTensors, cutting: Cutting) -> None:
    for number, batch in enumerate(found):
        while batch:
            entry, weight = batch.pop()
            layer = number // 3
            assert isinstance(weight, LazyTensor) == ("norm" not in entry.name)
            if "norm" in entry.name:
                assert torch.equal(weight, stored(entry.name))
                continue
            target = cutting(layer, entry.name, weight)
            assert torch.equal(target + 0, cutting(layer, entry.name, stored(entry.name)))


@pytest.mark.parametrize("cutting", [halves, ever_new])
@pytest.mark.parametrize("ahead_bytes", [0, 300, 700, 2 * LAYER_BYTES, 1 << 20])
def test_bytes_are_right_and_the_bound_holds(
    feed: StandingFeed, cutting: Cutting, ahead_bytes: int
) -> None:
    gatherer = Watched()
    found = tensors(feed, gatherer, ahead_bytes)
    load(found, cutting)
    assert gatherer.most_ahead_bytes <= ahead_bytes + LARGE_BYTES
    found.close()
    gc.collect()
    assert gatherer.ahead_bytes == 0


def test_every_layer_but_the_first_is_foretold(feed: StandingFeed) -> None:
    gatherer = Watched()
    found = tensors(feed, gatherer)
    load(found, halves)
    found.close()
    asked = [
        cut for cut, foretold in gatherer.begun if not foretold and cut.size_bytes > SMALL_BYTES
    ]
    assert len(asked) == 2
    assert found.copied_bytes == LAYERS * (LARGE_BYTES + SMALL_BYTES)


@pytest.mark.parametrize("ahead_bytes", [2 * LAYER_BYTES, 1 << 20])
def test_layers_that_are_cut_once_they_are_complete(feed: StandingFeed, ahead_bytes: int) -> None:
    """As vLLM does where it quantises each layer while it loads."""
    gatherer = Watched()
    found = tensors(feed, gatherer, ahead_bytes)
    layer: list[tuple[TensorEntry, torch.Tensor]] = []
    for number, batch in enumerate(found):
        layer.extend(batch)
        batch.clear()
        if number % 3 == 2:
            for entry, weight in layer:
                if "norm" not in entry.name:
                    half = halves(0, entry.name, weight) + 0
                    assert torch.equal(half, halves(0, entry.name, stored(entry.name)))
            layer.clear()
            del weight
    found.close()
    asked = [cut for cut, foretold in gatherer.begun if not foretold]
    assert len([cut for cut in asked if cut.size_bytes > SMALL_BYTES]) <= 4
    assert found.copied_bytes == LAYERS * (LARGE_BYTES + SMALL_BYTES)


def test_the_place_of_a_rank_foretells_the_first_layer(feed: StandingFeed) -> None:
    gatherer = Watched()
    found = tensors(feed, gatherer, foretelling=Foretelling(RankPlace(1, 2)))
    load(found, halves)
    found.close()
    assert all(foretold for cut, foretold in gatherer.begun if cut.size_bytes > SMALL_BYTES)
    assert found.copied_bytes == LAYERS * (LARGE_BYTES + SMALL_BYTES)


def test_a_wrong_guess_by_the_place_costs_one_layer(feed: StandingFeed) -> None:
    found = tensors(feed, Watched(), foretelling=Foretelling(RankPlace(0, 2)))
    load(found, halves)
    found.close()
    assert found.copied_bytes <= LAYERS * (LARGE_BYTES + SMALL_BYTES) + LARGE_BYTES


def test_what_nobody_wants_of_a_layer_is_not_fetched_of_the_next(feed: StandingFeed) -> None:
    gatherer = Watched()
    found = tensors(feed, gatherer)
    for batch in found:
        for entry, weight in batch:
            if "up" in entry.name:
                assert torch.equal(weight[:2] + 0, stored(entry.name)[:2])
    found.close()
    assert found.copied_bytes == LAYERS * (2 * COLUMNS + SMALL_BYTES)


def test_wrong_guesses_and_an_error_leave_no_memory_in_use(feed: StandingFeed) -> None:
    gatherer = Watched()
    found = tensors(feed, gatherer)

    def broken(layer: int, name: str, weight: torch.Tensor) -> torch.Tensor:
        if layer == 4:
            raise ValueError("broken")
        return ever_new(layer, name, weight)

    with pytest.raises(ValueError, match="broken"):
        load(found, broken)
    assert gatherer.ahead_bytes
    found.close()
    gc.collect()
    assert gatherer.ahead_bytes == 0


def test_a_guess_that_cannot_be_fetched_hurts_only_who_wants_it(feed: StandingFeed) -> None:
    found = tensors(feed, Watched())
    batches = iter(found)
    (_, weight), *_ = next(batches)
    feed.gone = True
    with pytest.raises(DaemonUnavailable, match="slice by slice"):
        weight[1:].clone()
    feed.gone = False
    assert torch.equal(weight[2:] + 0, stored("layers.0.up_proj.weight")[2:])
    found.close()


def test_what_is_kept_outlives_the_gatherer(feed: StandingFeed) -> None:
    found = tensors(feed, Watched())
    collected = {entry.name: weight for batch in found for entry, weight in batch}
    found.keep()
    found.close()
    assert found.copied_bytes == len(DATA)
    for name, weight in collected.items():
        assert torch.equal(weight.flip(0), stored(name).flip(0))


def test_a_load_that_is_given_up_waits_for_no_block(
    feed: StandingFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A foretold tensor may be read only much later."""
    monkeypatch.setattr(gather, "BATCH_BYTES", 256)
    waiting, ended = threading.Event(), threading.Event()

    class SlowFeed(StandingFeed):
        def standing(self, number: int, span: BlockRange, *, wait: bool = True) -> OpenFile | None:
            if span.start and not wait:
                return None
            if span.start:
                waiting.set()
                assert ended.wait(30), "the pass was not ended"
                raise FeedClosed
            return super().standing(number, span, wait=wait)

        def end(self, number: int) -> None:
            super().end(number)
            ended.set()

    found = tensors(SlowFeed(feed._fd), Watched(), foretelling=Foretelling(RankPlace(0, 2)))
    next(iter(found))
    assert waiting.wait(30)
    found.close()
