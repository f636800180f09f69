"""Reads ranges of files through a feed, whatever the files are.

Owns the plan: a pass reads each block once and in order, so overlapping ranges need several passes.
The caller knows what the bytes mean, and names dtype and shape of each range. One thread at a time
uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from streamer_client.contract.errors import SourceError
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.copy.feed import Feed, FeedClosed, FeedShard, Route
from streamer_client.tensors.iteration import tensors


class Range(NamedTuple):
    """Bytes `start` to `stop` of shard number `shard`, with their dtype and shape."""

    shard: int
    start: int
    stop: int
    dtype: str
    """The dtype of the elements, as safetensors names it."""
    shape: tuple[int, ...]


def byte_range(shard: int, start: int, size_bytes: int) -> Range:
    """A range of plain bytes, which is handed out with shape `(1, size_bytes)`."""
    return Range(shard, start, start + size_bytes, "U8", (1, size_bytes))


def read_ranges(
    feed: Feed, ranges: Sequence[Range], device: torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    """Each range's place in the list and its tensor, in the order of the files.

    Raises:
        FeedClosed: the feed was closed meanwhile.
        StreamerError: a file could not be read.
    """
    for layer in _layers(ranges):
        planned = _Planned(feed.shards, ranges, layer)
        for batch in tensors(feed, planned, device, None):
            while batch:
                entry, tensor = batch.pop()
                yield int(entry.name), tensor
                del entry, tensor  # only the caller decides how long it lives


class RangeStream:
    """Ranges of files that are handed out once.

    Args:
        feed: the feed of the files; the stream closes it.
        ranges: the ranges to hand out.
        device: device that the tensors are wanted on.
    """

    def __init__(self, feed: Feed, ranges: Sequence[Range], device: torch.device) -> None:
        self._feed = feed
        self._ranges = ranges
        self._device = device
        self._begun = False
        self._closed = False

    @property
    def route(self) -> Route:
        """The way that the bytes come; see `Feed.route`."""
        return self._feed.route

    def once(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield as `read_ranges` does, but only once. Closes the feed at its end."""
        if self._begun:
            return
        self._begun = True
        try:
            for place, tensor in read_ranges(self._feed, self._ranges, self._device):
                yield place, tensor
                del tensor  # only the caller decides how long it lives
                if self._closed:  # a pass that has read to its end does not notice it
                    raise FeedClosed
        finally:
            self._feed.close()

    def close(self) -> None:
        """End the stream; an iteration that is under way raises FeedClosed. Idempotent."""
        self._closed = True
        self._feed.close()


def check_ranges(shards: Sequence[FeedShard], ranges: Sequence[Range]) -> None:
    """Check that every range lies in its file; an empty one may lie anywhere.

    Raises:
        SourceError: a range does not; the text names the first such.
    """
    for shard, start, stop, _, _ in ranges:
        uri, size_bytes = shards[shard]
        if start < stop and stop > size_bytes:
            raise SourceError(
                f"{uri}: bytes {start} to {stop} were asked for, and it has {size_bytes}; "
                "is it the file that the ranges were made for?"
            )


def _layers(ranges: Sequence[Range]) -> list[list[int]]:
    """Indices of ranges in lists that are in file order and free of overlaps; mostly one list."""
    layers: list[list[int]] = []
    ends: list[tuple[int, int]] = []
    for place in sorted(range(len(ranges)), key=lambda place: ranges[place][:3]):
        shard, start, stop = ranges[place][:3]
        layer = next((one for one, end in enumerate(ends) if end <= (shard, start)), len(ends))
        if layer == len(ends):
            layers.append([])
            ends.append((shard, stop))
        layers[layer].append(place)
        ends[layer] = (shard, stop)
    return layers


class _Planned:
    """Stands for the headers of a feed in a pass, with the wanted ranges in place of tensors."""

    def __init__(
        self, shards: Sequence[FeedShard], ranges: Sequence[Range], places: Sequence[int]
    ) -> None:
        entries: list[list[TensorEntry]] = [[] for _ in shards]
        for place in places:
            shard, start, stop, dtype, shape = ranges[place]
            entries[shard].append(TensorEntry(str(place), dtype, shape, start, stop))
        self._catalogs = [
            ShardCatalog(shard.uri, shard.size_bytes, 0, tuple(wanted), {})
            for shard, wanted in zip(shards, entries, strict=True)
        ]

    def known(self, shard: int) -> ShardCatalog:
        return self._catalogs[shard]

    def in_pass(self, number: int, shard: int) -> ShardCatalog:
        del number
        return self._catalogs[shard]

    def in_view(self, shard: int) -> ShardCatalog:
        return self._catalogs[shard]
