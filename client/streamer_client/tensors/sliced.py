"""Handing out tensors of which each rank fetches its part: large ones lazy, small ones ordinary.

Owns what is fetched in advance, within one bound: small tensors, and slices that are foretold. The
thread that loads weights hands tensors out; other threads may use them, and the gatherer's threads
fetch. Lazy tensors may be used until `close`, and afterwards if `keep` was called before.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import torch

from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.layout import BlockRange, blocks_of_bytes
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.copy.cut import Cut, moved
from streamer_client.copy.dtypes import torch_form
from streamer_client.copy.engines import gather_engine_for
from streamer_client.copy.feed import Feed, FeedClosed, Image, Route
from streamer_client.copy.gather import Gatherer
from streamer_client.copy.plan import blocks, whole
from streamer_client.copy.slice import Slice
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
"""The most that is staged on the device in advance. With twice as much, vLLM's first load was no
faster (two H200s): the device's allocator then has twice as many blocks to make."""
LOOKS_AT_ONCE: Final = 32
"""At how many of the tensors that were handed out, and not cut, a step looks whether they were
dropped. Loaders may collect thousands."""
SHARE_AHEAD: Final = 4
"""At most one part in so many of the device's free memory is staged in advance, as a model may
nearly fill a device."""


def sliced(
    feed: Feed,
    headers: Headers,
    device: torch.device,
    names: frozenset[str] | None,
    small_bytes: int = SMALL_BYTES,
    place: RankPlace | None = None,
) -> SlicedTensors | None:
    """The tensors of a feed, or only the named ones; large ones are lazy.

    Returns:
        The tensors; None if slices cannot be fetched, because not all shards stay in memory or no
        engine gathers on such a device.

    Raises:
        StreamerError: a header could not be read, or the device cannot be used.
    """
    if device.type == "cuda" and device.index is None:  # tensors compare it with a parameter's
        device = torch.device("cuda", torch.cuda.current_device())
    shards = range(len(feed.shards))
    if not all(feed.views(shard) for shard in shards):
        return None
    ahead_bytes = _ahead_bytes(device)  # later the driver is busy with pinning
    engine = gather_engine_for(device, feed)
    if engine is None:
        return None
    gatherer = Gatherer(engine, device)  # its threads pin memory while headers are read
    try:
        catalogs, number = headers.all(), _begun(feed)
    except BaseException:
        gatherer.close()
        raise
    select, foretelling = by_name(names), Foretelling(place)
    return SlicedTensors(
        feed, catalogs, select, device, gatherer, foretelling,
        number=number, small_bytes=small_bytes, ahead_bytes=ahead_bytes,
    )  # fmt: skip


def _ahead_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return AHEAD_BYTES
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return min(AHEAD_BYTES, int(free_bytes) // SHARE_AHEAD)


def _begun(feed: Feed) -> int:
    """Begin a pass over all blocks; it reads the page cache if the files are there."""
    return feed.begin(whole([shard.size_bytes for shard in feed.shards], feed.block_bytes))


class _Place(NamedTuple):
    """One large tensor, or a group of small ones, of one shard."""

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
        feed: the feed, whose shards are all held.
        catalogs: headers of all its shards.
        select: chooses the wanted tensors.
        device: device that the tensors are wanted on.
        gatherer: fetches slices; it is closed with this object.
        foretelling: predicts the slices that will be asked for.
        number: number of the pass in which slices are fetched; the pass ends with this object.
        small_bytes: tensors of at most so many bytes are ordinary ones.
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
        self._lent: WeakValueDictionary[tuple[int, int], Stored] = WeakValueDictionary()
        """Stored tensors whose lazy tensors somebody still has, by shard and first byte."""
        self._undecided: deque[int] = deque()
        """Numbers of places whose lazy tensors were handed out, and may still be cut."""
        self._lock = threading.Lock()
        """Guards the foretelling and the staged slices."""
        self._foretelling = foretelling
        self._staged: OrderedDict[tuple[int, int, Cut], Slice] = OrderedDict()
        """Slices that are staged or being staged, by shard, the tensor's first byte, and cut; the
        oldest first."""
        self._staged_bytes = 0
        self._handed = 0
        self._reached = 0
        """The first place for which nothing was staged yet."""
        self.copied_bytes = 0
        """How many bytes of all shards were fetched so far."""

    def __iter__(self) -> Iterator[list[Handed]]:
        """Yield small neighbours together and each large tensor alone, in lists in reverse order.

        The caller pops the tensors from the end of each list.
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
                yield [(entry, self._lazy(number, place.shard, entry))]
                with self._lock:
                    self._note_left()
                    self._undecided.append(number)

    def _note_left(self) -> None:
        """Note which tensors nobody has any more.

        A loader may hand weights to a layer that cuts them once it has all of its own. Such tensors
        are not taken for unwanted, and neither is the one that the loader got last.
        """
        for _ in range(min(LOOKS_AT_ONCE, len(self._undecided))):
            number = self._undecided.popleft()
            place = self._places[number]
            if place.large is None:
                continue
            if (place.shard, place.large.start) in self._lent:
                self._undecided.append(number)
            else:
                self._foretelling.was_left(number, place.large)

    def keep(self) -> None:
        """Fetch the bytes of lazy tensors that somebody still has, so that they outlive `close`.

        Loaders may put weights aside and use them later. vLLM's layerwise loading does so for
        layers that are not complete at the end.

        Raises:
            StreamerError: bytes cannot be fetched.
        """
        for stored in list(self._lent.values()):
            stored.keep()
        if self._feed.route is Route.PAGE_CACHE:
            self._count_as_read()

    def _count_as_read(self) -> None:
        """Make the daemon bring the files in after the close, as if all blocks had been read."""
        sizes_bytes = [shard.size_bytes for shard in self._feed.shards]
        with suppress(FeedClosed):  # another pass has begun meanwhile
            for shard, block in blocks(whole(sizes_bytes, self._feed.block_bytes)):
                self._feed.consumed(self._number, shard, block)

    def close(self) -> None:
        """Stop fetching and staging. Idempotent."""
        self._feed.end(self._number)  # first, as gathering threads may wait for a block
        self._gatherer.close()
        with self._lock:
            self._staged.clear()
            self._staged_bytes = 0

    # --- large tensors ---------------------------------------------------------------------------

    def _lazy(self, number: int, shard: int, entry: TensorEntry) -> torch.Tensor:
        dtype, shape = torch_form(entry.dtype, entry.shape)
        size_bytes = entry.stop - entry.start
        stored = Stored(
            lambda cut: self._fetched(number, shard, entry, cut), self._device, size_bytes
        )
        self._lent[shard, entry.start] = stored
        return lazy(shape, dtype, stored)

    def _fetched(self, number: int, shard: int, entry: TensorEntry, cut: Cut) -> torch.Tensor:
        with self._lock:
            self._foretelling.was_cut(number, entry, cut)
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
        """Begin to stage the next slices, as far as they are known and there is room."""
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
        """The slices a place will need: its tensor's start, cut and name; None if unknown."""
        entry = place.large
        if entry is None:
            return [(span.start, _whole(span), span.entries[0].name) for span in place.group.spans]
        cuts = self._foretelling.guess(entry)
        return None if cuts is None else [(entry.start, cut, entry.name) for cut in cuts]

    def _has_room(self, size_bytes: int) -> bool:
        """Whether so many more bytes may be staged; gives up staged slices that were not used."""
        while self._staged and self._staged_bytes + size_bytes > self._most_ahead_bytes:
            (shard, start, cut), made = next(iter(self._staged.items()))
            if not self._is_past(shard, start) or (shard, start) in self._lent:
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

        def source(start: int, stop: int, *, wait: bool) -> Image | None:
            span = BlockRange(shard, *blocks_of_bytes(start, stop, self._feed.block_bytes))
            image = self._feed.standing(self._number, span, wait=wait)
            if image is None and wait:
                raise DaemonUnavailable(f"{uri} cannot be read slice by slice any more")
            return image

        told = f"tensor {name} of {uri}"
        return self._gatherer.begin(source, rows, told, foretold=foretold)


def _whole(span: GroupSpan) -> Cut:
    return Cut(0, span.stop - span.start, ())
