"""An opened checkpoint: its catalog, its tensors, and loading them into a model's own memory.

Used by one thread at a time. Tensors handed out as views stay valid as long as they are referenced,
whether the checkpoint, the client or the daemon is still there or not.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import torch

from streamer_client.contract.catalog import TensorEntry
from streamer_client.contract.errors import SourceError
from streamer_client.copy.feed import Feed
from streamer_client.stats import LoadStats, Progress
from streamer_client.tensors.catalog_view import Catalog
from streamer_client.tensors.headers import Headers
from streamer_client.tensors.iteration import tensors
from streamer_client.tensors.loading import Loading, Mismatch
from streamer_client.tensors.sliced import sliced
from streamer_client.tensors.staging import Handed
from streamer_client.tensors.staging_groups import SMALL_BYTES


class OnTensor(Protocol):
    def __call__(self, name: str, size_bytes: int) -> None: ...


class Checkpoint:
    """A checkpoint over any feed. A context manager: leaving it closes it.

    Args:
        feed: where its bytes come from; the checkpoint closes it.
        source: what was opened, for people.
        progress: told how far reading is, see `stats.Progress`.
    """

    def __init__(self, feed: Feed, source: str, progress: Progress | None = None) -> None:
        self._feed = feed
        self._headers = Headers(feed)
        total_bytes = sum(shard.size_bytes for shard in feed.shards)
        self._stats = LoadStats(
            source=source,
            mode=feed.mode,
            total_bytes=total_bytes,
            resident_bytes=min(feed.resident_bytes, total_bytes),  # the daemon counts whole pages
            progress=progress,
        )
        self._finalizer = weakref.finalize(self, feed.close)
        self._finalizer.atexit = False

    @property
    def stats(self) -> LoadStats:
        """What was loaded so far, and from where."""
        self._stats.mode = self._feed.mode
        return self._stats

    @property
    def uris(self) -> tuple[str, ...]:
        """Its shards, in the order in which they are read."""
        return tuple(shard.uri for shard in self._feed.shards)

    @property
    def catalog(self) -> Catalog:
        """Name to dtype, shape, byte range and shard. Reads every header that was not read yet.

        Raises:
            CorruptCheckpoint: a shard is not valid safetensors, or two have the same name.
        """
        with self._stats.timed():
            return Catalog(self._headers.all())

    def tensors(
        self, device: torch.device | str = "cpu", names: frozenset[str] | set[str] | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over `(name, tensor)`, shard after shard in file order.

        On the CPU, tensors of shards that stay resident are views of the shared bytes: nothing is
        copied, and writing to them changes no byte but this process's own. All others are private.
        One iteration at a time can run over a checkpoint that does not stay resident.

        Args:
            device: where the tensors are wanted.
            names: only these, or all.

        Raises:
            SourceError: a shard cannot be read, or a name is in none.
        """
        wanted = self._wanted(names)
        stats = self._stats
        batches = tensors(self._feed, self._headers, torch.device(device), wanted, stats.copied)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                self._feed.settle()
            stats.seconds += time.perf_counter() - start
            if batch is None:
                return
            while batch:
                entry, tensor = batch.pop()
                stats.loaded(entry.stop - entry.start)
                yield entry.name, tensor
                del tensor  # the caller alone decides how long it lives

    @contextlib.contextmanager
    def slices(
        self,
        device: torch.device | str,
        names: frozenset[str] | set[str] | None = None,
        *,
        small_bytes: int = SMALL_BYTES,
    ) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
        """Iterate over `(name, tensor)` for a model that keeps a part of each.

        Larger tensors stand for bytes that are not fetched yet: what is copied from
        a view of one is fetched, that slice alone, and everything else that is done with one
        fetches what it needs. Those that are referenced when the context is left without an error
        are fetched as a whole then; after an error they may be used no more.
        Where that cannot be had, tensors are those of `tensors`.

        Args:
            device: where the tensors are wanted.
            names: only these, or all.
            small_bytes: tensors of at most so many bytes are ordinary ones.

        Raises:
            SourceError: as `tensors`; of bytes that could not be had, where they are used.
        """
        wanted = self._wanted(names)
        found = sliced(self._feed, self._headers, torch.device(device), wanted, small_bytes)
        if found is None:
            yield self.tensors(device, names)
            return
        try:
            with contextlib.closing(self._handed(found)) as handed:
                yield handed
            with self._stats.timed():
                found.keep()
                self._feed.settle()
        finally:
            found.close()
            self._stats.copied(found.copied_bytes)

    def _handed(
        self, batches: Iterable[list[Handed]]
    ) -> Generator[tuple[str, torch.Tensor], None, None]:
        for batch in batches:
            while batch:
                entry, tensor = batch.pop()
                self._stats.loaded(entry.stop - entry.start)
                yield entry.name, tensor
                del tensor  # the caller alone decides how long it lives

    def _wanted(self, names: frozenset[str] | set[str] | None) -> frozenset[str] | None:
        """The names, which must all be stored; None for all."""
        wanted = None if names is None else frozenset(names)
        if wanted is not None:
            unknown = sorted(wanted - set(self.catalog))
            if unknown:
                raise SourceError(
                    f"{self._stats.source} has no tensor {', '.join(unknown)}; "
                    "`catalog` shows what it has"
                )
        return wanted

    def load_into(
        self,
        targets: Mapping[str, torch.Tensor],
        *,
        strict: bool = True,
        on_mismatch: Mismatch | None = None,
        on_tensor: OnTensor | None = None,
    ) -> frozenset[str]:
        """Read tensors into memory that is there already, such as a model's parameters.

        Bytes go straight into targets of the stored dtype and shape. Any other target gets the
        stored tensor in its leading corner, each dimension narrowed to the stored size where that
        is smaller, converted to its dtype.

        Args:
            targets: name to tensor.
            strict: every target must be stored and every stored tensor have a target; else those
                on one side only are left alone.
            on_mismatch: called with `(name, catalog entry, target)` for each that is converted or
                narrowed.
            on_tensor: called in this thread with `(name, size_bytes)` once a tensor is in place.

        Returns:
            The names that were loaded.

        Raises:
            SourceError: a shard cannot be read; with `strict`, names are missing or unexpected;
                a stored tensor is larger than its target.
        """

        def loaded(entries: Sequence[TensorEntry]) -> None:
            for entry in entries:
                self._stats.loaded(entry.stop - entry.start)
                self._stats.copied(entry.stop - entry.start)
                if on_tensor is not None:
                    on_tensor(entry.name, entry.stop - entry.start)

        with self._stats.timed():
            names = Loading(
                self._feed,
                self._headers,
                targets,
                strict=strict,
                on_mismatch=on_mismatch,
                on_tensors=loaded,
            ).run()
            self._feed.settle()
            return names

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
