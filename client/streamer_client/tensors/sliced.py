"""Handing tensors out of which each rank fetches its part: large ones lazy, small ones as they are.

Owns what is fetched before it is asked for: small tensors, and slices that are foretold, within one
bound. Tensors are handed out in the thread that loads weights, and may be used in others; the
gatherer's threads fetch. Lazy tensors may be used until `close`, and afterwards if `keep` came
before it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from weakref import WeakSet

import torch

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.layout import blocks_of_bytes
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.copy.cut import Cut, moved
from streamer_client.copy.dtypes import torch_form
from streamer_client.copy.engines import gather_engine_for
from streamer_client.copy.feed import Feed, FeedClosed, Image, Route
from streamer_client.copy.gather import Gatherer, Slice
from streamer_client.copy.plan import blocks, whole
from streamer_client.tensors.foretelling import Foretelling, RankPlace
from streamer_client.tensors.headers import Headers
from streamer_client.tensors.lazy import lazy
from streamer_client.tensors.selection import Select, by_name
from streamer_client.tensors.staging import (
    SMALL_BYTES,
    GroupSpan,
    Handed,
    StagingGroup,
    small_together,
    split,
)
from streamer_client.tensors.stored import Stored

AHEAD_BYTES: Final = 1 << 30
"""The most that is staged on the device before it is asked for."""


def sliced(
    feed: Feed,
    headers: Headers,
    device: torch.device,
    names: frozenset[str] | None,
    small_bytes: int = SMALL_BYTES,
    place: RankPlace | None = None,
) -> SlicedTensors | None:
    """The tensors of a feed, or the named ones, large ones lazy.

    Returns:
        None where slices cannot be fetched: not all shards stay in memory, or nothing gathers on
        such a device.

    Raises:
        StreamerError: a header could not be read, or the device cannot be used.
    """
    if device.type == "cuda" and device.index is None:  # tensors compare it with a parameter's
        device = torch.device("cuda", torch.cuda.current_device())
    shards = range(len(feed.shards))
    if not all(feed.views(shard) for shard in shards):
        return None
    engine = gather_engine_for(device, feed)
    if engine is None:
        return None
    gatherer = Gatherer(engine, device)  # its threads pin memory while the headers are read
    try:
        catalogs, number = headers.all(), _begun(feed)
    except BaseException:
        gatherer.close()
        raise
    select, foretelling = by_name(names), Foretelling(place)
    return SlicedTensors(
        feed, catalogs, select, device, gatherer, foretelling,
        number=number, small_bytes=small_bytes,
    )  # fmt: skip


def _begun(feed: Feed) -> int:
    """A pass over everything: where the files are in the page cache, it takes them from there."""
    return feed.begin(whole([shard.size_bytes for shard in feed.shards], feed.block_bytes))


class _Place(NamedTuple):
    """A group of small tensors of one shard, or one large tensor."""

    shard: int
    group: StagingGroup
    large: TensorEntry | None

    @staticmethod
    def of(shard: int, group: StagingGroup, small_bytes: int) -> _Place:
        span = group.spans[0]
        large = group.single and span.stop - span.start > small_bytes
        return _Place(shard, group, span.entries[0] if large else None)


class SlicedTensors:
    """The tensors of shards that stay in memory, large ones lazy.

    Args:
        feed: whose shards are all held.
        catalogs: of all its shards.
        select: which tensors are wanted.
        device: where they are wanted.
        gatherer: fetches; closed with this.
        foretelling: tells what will be fetched.
        number: of the feed's pass in which that is done; it ends with this.
        small_bytes: tensors of at most so many bytes are handed out as they are.
        ahead_bytes: see `AHEAD_BYTES`.
    """

    def __init__(
        self,
        feed: Feed,
        catalogs: Sequence[ShardCatalog],
        select: Select,
        device: torch.device,
        gatherer: Gatherer,
        foretelling: Foretelling,
        *,
        number: int,
        small_bytes: int = SMALL_BYTES,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self._feed = feed
        self._number = number
        self._device = device
        self._gatherer = gatherer
        self._most_ahead_bytes = ahead_bytes
        self._places = [
            _Place.of(shard, group, small_bytes)
            for shard, catalog in enumerate(catalogs)
            for group in small_together(select(shard, catalog), small_bytes)
        ]
        self._lent: WeakSet[Stored] = WeakSet()
        """Stored tensors of which somebody has lazy tensors."""
        self._lock = threading.Lock()
        """Guards what is foretold and what is staged."""
        self._foretelling = foretelling
        self._staged: OrderedDict[tuple[int, int, Cut], Slice] = OrderedDict()
        """Slices on their way or there, by shard, the tensor's first byte, and cut; the oldest
        first."""
        self._staged_bytes = 0
        self._handed = 0
        self._reached = 0
        """The place from which on nothing is staged yet."""
        self.copied_bytes = 0
        """Bytes that were fetched of all shards so far."""

    def __iter__(self) -> Iterator[list[Handed]]:
        """Yield small neighbours together and each large tensor alone; the last of a list first.

        Whoever takes the tensors pops them from the end of the list.
        """
        with self._lock:
            self._stage_ahead()
        for number, place in enumerate(self._places):
            with self._lock:
                self._handed = number
                self._reached = max(self._reached, number + 1)
                self._stage_ahead()
            entry = place.large
            if entry is None:
                handed = self._small(place)
                handed.reverse()
                yield handed
            else:
                yield [(entry, self._lazy(place.shard, entry))]
                with self._lock:
                    self._foretelling.was_left(entry)

    def keep(self) -> None:
        """Fetch what lazy tensors stand for that somebody has still: they outlive `close`.

        A loader that puts weights aside, as vLLM's layerwise loading does for layers that are not
        complete at the end, uses them later.

        Raises:
            StreamerError: bytes cannot be had.
        """
        for stored in list(self._lent):
            stored.keep()
        if self._feed.route is Route.PAGE_CACHE:
            self._count_as_read()

    def _count_as_read(self) -> None:
        """Have the daemon bring the files in after the close, as when all of them were read."""
        sizes_bytes = [shard.size_bytes for shard in self._feed.shards]
        with suppress(FeedClosed):  # another pass was begun meanwhile
            for shard, block in blocks(whole(sizes_bytes, self._feed.block_bytes)):
                self._feed.consumed(self._number, shard, block)

    def close(self) -> None:
        """Fetch nothing any more, and stage nothing. Idempotent."""
        self._feed.end(self._number)  # first: who gathers may be waiting for a block
        self._gatherer.close()
        with self._lock:
            self._staged.clear()
            self._staged_bytes = 0

    # --- large tensors ---------------------------------------------------------------------------

    def _lazy(self, shard: int, entry: TensorEntry) -> torch.Tensor:
        dtype, shape = torch_form(entry.dtype, entry.shape)
        size_bytes = entry.stop - entry.start
        stored = Stored(lambda cut: self._fetched(shard, entry, cut), self._device, size_bytes)
        self._lent.add(stored)
        return lazy(shape, dtype, stored)

    def _fetched(self, shard: int, entry: TensorEntry, cut: Cut) -> torch.Tensor:
        with self._lock:
            self._foretelling.was_cut(entry, cut)
            made = self._taken(shard, entry.start, cut, entry.name)
        found = self._gatherer.wait(made)
        with self._lock:
            self._stage_ahead()
        return found

    # --- small tensors ---------------------------------------------------------------------------

    def _small(self, place: _Place) -> list[Handed]:
        handed: list[Handed] = []
        for span in place.group.spans:
            cut = _whole(span)
            with self._lock:
                made = self._taken(place.shard, span.start, cut, span.entries[0].name)
            flat = self._gatherer.wait(made) if cut.size_bytes else made.flat
            handed.extend(split(flat, span))
        return handed

    def _taken(self, shard: int, start: int, cut: Cut, name: str) -> Slice:
        """The slice that was staged, or a new one; the caller holds the lock."""
        made = self._staged.pop((shard, start, cut), None)
        if made is None:
            return self._begin(shard, start, cut, name)
        self._staged_bytes -= cut.size_bytes
        return made

    # --- ahead, by whoever holds the lock --------------------------------------------------------

    def _stage_ahead(self) -> None:
        """Begin what comes next, as far as it is known and there is room."""
        while self._reached < len(self._places):
            wanted = self._known(self._places[self._reached])
            if wanted is None:
                return
            size_bytes = sum(cut.size_bytes for _, cut, _ in wanted)
            if not self._has_room(size_bytes):
                return
            shard = self._places[self._reached].shard
            for start, cut, name in wanted:
                if cut.size_bytes:
                    made = self._begin(shard, start, cut, name, foretold=True)
                    self._staged[shard, start, cut] = made
                    self._staged_bytes += cut.size_bytes
            self._reached += 1

    def _known(self, place: _Place) -> list[tuple[int, Cut, str]] | None:
        """What a place will need: where its tensor begins, the cut, a name. None if unknown."""
        entry = place.large
        if entry is None:
            return [(span.start, _whole(span), span.entries[0].name) for span in place.group.spans]
        cuts = self._foretelling.guess(entry)
        return None if cuts is None else [(entry.start, cut, entry.name) for cut in cuts]

    def _has_room(self, size_bytes: int) -> bool:
        """Whether so much more may be staged; gives up on slices that nobody came for."""
        while self._staged and self._staged_bytes + size_bytes > self._most_ahead_bytes:
            (shard, start, cut), made = next(iter(self._staged.items()))
            if not self._is_past(shard, start):
                return False
            del self._staged[shard, start, cut]
            self._staged_bytes -= cut.size_bytes
            self._gatherer.forget(made)
        return True

    def _is_past(self, shard: int, start: int) -> bool:
        """Whether the tensor that begins there was handed out before the present one."""
        place = self._places[self._handed]
        return (shard, start) < (place.shard, place.group.spans[0].start)

    # --- fetching --------------------------------------------------------------------------------

    def _begin(
        self, shard: int, start: int, cut: Cut, name: str, *, foretold: bool = False
    ) -> Slice:
        self.copied_bytes += cut.size_bytes
        uri, rows = self._feed.shards[shard].uri, moved(cut, start)

        def source(start: int, stop: int) -> Image:
            span = blocks_of_bytes(start, stop, self._feed.block_bytes)
            image = self._feed.standing(self._number, shard, *span)
            if image is None:
                raise DaemonUnavailable(f"{uri} cannot be read slice by slice any more")
            return image

        told = f"tensor {name} of {uri}"
        return self._gatherer.begin(source, rows, told, foretold=foretold)


def _whole(span: GroupSpan) -> Cut:
    return Cut(0, span.stop - span.start, ())
