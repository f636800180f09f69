"""An opened checkpoint: its catalog, its tensors, and loading them into a model's own memory.

One thread at a time uses a checkpoint. Tensors handed out as views stay valid as long as they are
referenced, whether the checkpoint, the client or the daemon still exists or not.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import torch

from streamer_client.contract.errors import SourceError
from streamer_client.contract.safetensors.catalog import TensorEntry
from streamer_client.copy.feed import Copies, Feed
from streamer_client.stats import LoadStats, Progress
from streamer_client.tensors.filling import OnMismatch, TargetFiller
from streamer_client.tensors.foretelling import RankPlace
from streamer_client.tensors.headers import Headers
from streamer_client.tensors.iteration import tensors
from streamer_client.tensors.selection import Catalog
from streamer_client.tensors.sliced import SlicedTensors, sliced
from streamer_client.tensors.staging import SMALL_BYTES, Handed


class OnTensor(Protocol):
    def __call__(self, name: str, size_bytes: int) -> None: ...


class Checkpoint:
    """A checkpoint over any feed. A context manager: leaving it closes it.

    Args:
        feed: where the checkpoint's bytes come from; the checkpoint closes it.
        source: the source that was opened, for people.
        progress: told how far reading is, see `stats.Progress`.
        owners: for a tensor that is in several shards, the number of the shard that counts.
        on_copied: told after each pass what the pass copied, and where the bytes came from.
    """

    def __init__(
        self,
        feed: Feed,
        source: str,
        progress: Progress | None = None,
        owners: Mapping[str, int] | None = None,
        on_copied: Callable[[Copies], None] | None = None,
    ) -> None:
        self._feed = feed
        self._owners = owners
        self._on_copied = on_copied
        self._told_bytes = 0
        self._told_direct_bytes = 0
        self._headers = Headers(feed, owners=owners)
        total_bytes = sum(shard.size_bytes for shard in feed.shards)
        self._stats = LoadStats(
            source=source,
            mode=feed.route,
            total_bytes=total_bytes,
            resident_bytes=min(feed.resident_bytes, total_bytes),  # the daemon counts whole pages
            progress=progress,
        )
        self._finalizer = weakref.finalize(self, feed.close)
        self._finalizer.atexit = False

    @property
    def stats(self) -> LoadStats:
        """The figures of this load so far."""
        self._stats.mode = self._feed.route
        return self._stats

    @property
    def uris(self) -> tuple[str, ...]:
        """The shards, in the order in which they are read."""
        return tuple(shard.uri for shard in self._feed.shards)

    @property
    def catalog(self) -> Catalog:
        """Each tensor's dtype, shape, byte range and shard. Reads headers not read before.

        Raises:
            CorruptCheckpoint: a shard is not valid safetensors, or two shards have the same name.
        """
        with self._stats.timed():
            return Catalog(self._headers.all(), self._owners)

    def tensors(
        self, device: torch.device | str = "cpu", names: frozenset[str] | set[str] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over `(name, tensor)`, shard after shard in file order.

        On the CPU, tensors of shards that stay resident are views of the shared bytes. Nothing is
        copied for them, and writing to one changes only this process's private copy of its pages.
        All other tensors are private copies. Only one iteration at a time can run over a checkpoint
        that does not stay resident. A name that is in several shards comes from the shard that
        counts. An earlier shard's tensor may come first, if it was handed out before the other
        shard's header was read.

        Args:
            device: device that the tensors are wanted on.
            names: names of the only tensors to read; None for all.

        Raises:
            SourceError: a shard cannot be read, or no shard has one of the names.
        """
        wanted = self._wanted(names)
        stats = self._stats
        batches = tensors(self._feed, self._headers, torch.device(device), wanted, stats.copied)
        places: Counter[str] = Counter()
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                self._settle()
            stats.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield from self._handed(batch, places)

    @contextlib.contextmanager
    def slices(
        self,
        device: torch.device | str,
        names: frozenset[str] | set[str] | None = None,
        *,
        small_bytes: int = SMALL_BYTES,
        place: RankPlace | None = None,
    ) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
        """Iterate over `(name, tensor)` for a model that keeps a part of each tensor.

        Larger tensors are lazy tensors, which stand for bytes that are not fetched yet. A copy from
        a view of a lazy tensor fetches that slice alone; any other use of the tensor fetches what
        the use needs. When the context is left without an error, lazy tensors that are still
        referenced are fetched as a whole; after an error they must not be used any more. If the
        checkpoint's bytes cannot be fetched in this way, the tensors are those of `tensors`.

        Args:
            device: device that the tensors are wanted on.
            names: names of the only tensors to read; None for all.
            small_bytes: tensors of at most so many bytes are ordinary ones.
            place: which of how many ranks the model is for, where each takes a part of most
                tensors. It tells what will likely be copied of the first layer, and so saves time.
                A single rank takes all of everything, so its tensors are those of `tensors`.

        Raises:
            SourceError: as in `tensors`; for lazy tensors, it is raised where they are used.
        """
        wanted = self._wanted(names)
        whole = place is not None and place.ranks == 1
        found = (
            None
            if whole
            else sliced(self._feed, self._headers, torch.device(device), wanted, small_bytes, place)
        )
        if found is None:
            yield self.tensors(device, names)
            return
        with self._fetching(found) as handed:
            yield handed

    @contextlib.contextmanager
    def _fetching(self, found: SlicedTensors) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
        counted_bytes = 0
        try:
            with contextlib.closing(self._each(found)) as handed:
                yield handed
            with self._stats.timed():
                found.keep()
                counted_bytes = found.copied_bytes
                self._stats.copied(counted_bytes)
                self._settle()
        finally:
            found.close()
            self._stats.copied(found.copied_bytes - counted_bytes)

    def _each(
        self, batches: Iterable[list[Handed]]
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        places: Counter[str] = Counter()
        for batch in batches:
            yield from self._handed(batch, places)

    def _handed(
        self, batch: list[Handed], places: Counter[str]
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        """Yield a list's tensors and empty it, so that only the caller keeps them alive."""
        while batch:
            entry, tensor = batch.pop()
            self._stats.loaded(entry.stop - entry.start)
            if self._owners is None or self._counts(entry.name, places):
                yield entry.name, tensor
            del tensor

    def _counts(self, name: str, places: Counter[str]) -> bool:
        """Whether the next copy of a tensor is to be handed out; counts that copy."""
        place = places[name]
        places[name] += 1
        return self._headers.counts(name, place)

    def _wanted(self, names: frozenset[str] | set[str] | None) -> frozenset[str] | None:
        """The names as a set, once it is known that each is stored; None for all."""
        if names is None:
            return None
        unknown = sorted(set(names) - set(self.catalog))
        if unknown:
            raise SourceError(
                f"{self._stats.source} has no tensor {', '.join(unknown)}; "
                "`catalog` shows what it has"
            )
        return frozenset(names)

    def load_into(
        self,
        targets: Mapping[str, torch.Tensor],
        *,
        strict: bool = True,
        on_mismatch: OnMismatch | None = None,
        on_tensor: OnTensor | None = None,
    ) -> frozenset[str]:
        """Read tensors into existing memory, such as a model's parameters.

        Bytes go straight into targets of the stored dtype and shape. Any other target gets the
        stored tensor in its leading corner, each dimension narrowed to the stored size where that
        is smaller, converted to its dtype.

        Args:
            targets: target of each tensor, by name.
            strict: whether every target must be stored and every stored tensor must have a target;
                otherwise names on one side only are ignored.
            on_mismatch: called with `(name, catalog entry, target)` for each tensor that is
                converted or narrowed.
            on_tensor: called in this thread with `(name, size_bytes)` once a tensor is in place.

        Returns:
            The names that were loaded.

        Raises:
            SourceError: a shard cannot be read; with `strict`, names are missing or unexpected;
                a stored tensor is larger than its target.
        """
        with self._stats.timed():
            names = TargetFiller(
                self._feed,
                self._headers,
                targets,
                strict=strict,
                on_mismatch=on_mismatch,
                on_tensors=self._counting(on_tensor),
            ).run()
            self._settle()
            return names

    def _settle(self) -> None:
        """Settle the feed at the end of a pass, and tell `on_copied` what was copied since."""
        self._feed.settle()
        more_bytes = self._stats.copied_bytes - self._told_bytes
        self._told_bytes += more_bytes
        direct_bytes = self._feed.direct_bytes - self._told_direct_bytes
        self._told_direct_bytes += direct_bytes
        if self._on_copied is not None and more_bytes:
            self._on_copied(Copies.of(more_bytes, self._feed.route, direct_bytes))

    def _counting(self, on_tensor: OnTensor | None) -> Callable[[Sequence[TensorEntry]], None]:
        """Make the function that notes tensors that are in place, and tells the caller of them."""

        def loaded(entries: Sequence[TensorEntry]) -> None:
            for entry in entries:
                size_bytes = entry.stop - entry.start
                self._stats.loaded(size_bytes)
                self._stats.copied(size_bytes)
                if on_tensor is not None:
                    on_tensor(entry.name, size_bytes)

        return loaded

    def close(self) -> None:
        """End the load. Views that are still referenced stay valid. Idempotent."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
