"""Filling targets, which are existing tensors such as a model's parameters.

Owns which stored bytes go to which target, the check that names match on both sides, and the calls
to the user's callbacks. The caller's thread plans and finishes; a copier's threads write into the
targets' own memory (`in_place.py`). A target of another dtype, shape or layout gets its bytes
through a private tensor (`Destination`). If several targets share memory, the first is filled in
place and the others through private tensors. These are copied at the end of the pass, in file
order, so that the result is the same as if the tensors had been loaded one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import torch

from streamer_client.contract.errors import ConfigError, SourceError
from streamer_client.contract.safetensors.catalog import ShardCatalog, TensorEntry
from streamer_client.copy.copier import Copier
from streamer_client.copy.destination import Destination, fresh
from streamer_client.copy.engines import engine_for
from streamer_client.copy.feed import Feed
from streamer_client.copy.plan import block_jobs, count
from streamer_client.tensors.headers import Headers
from streamer_client.tensors.in_place import (
    InPlace,
    InPlaceSpans,
    matches,
    plain,
    sharing_groups,
)
from streamer_client.tensors.selection import CatalogEntry, by_name, catalog_entry, reading_order

OnMismatch = Callable[[str, CatalogEntry, torch.Tensor], None]
"""Called with a target's name, the catalog entry stored under it, and the target."""

NAMES_SHOWN: Final = 10


class _Detour(NamedTuple):
    """A stored tensor that reaches its target through a private tensor. Serves as a `Span`."""

    start: int
    stop: int
    entry: TensorEntry
    target: torch.Tensor
    same: bool
    """Whether the target has the stored dtype and shape."""
    deferred: bool
    """Whether the target is filled only at the end of the pass."""


class TargetFiller:
    """One pass that fills targets. `run` is called once.

    Args:
        feed: hands out the checkpoint's blocks.
        headers: the headers of its shards, as far as they are known.
        targets: tensor or parameter by name.
        strict: whether every target must be stored and every stored tensor have a target.
        on_mismatch: called for each target whose dtype or shape is not the stored one.
        on_tensors: called with stored tensors once their targets are filled.
    """

    def __init__(
        self,
        feed: Feed,
        headers: Headers,
        targets: Mapping[str, torch.Tensor],
        *,
        strict: bool,
        on_mismatch: OnMismatch | None,
        on_tensors: Callable[[Sequence[TensorEntry]], None],
    ) -> None:
        self._feed = feed
        self._headers = headers
        self._targets = {name: _bare(target) for name, target in targets.items()}
        self._strict = strict
        self._on_mismatch = on_mismatch
        self._on_tensors = on_tensors
        self._groups = sharing_groups(self._targets)
        self._claimed: set[int] = set()
        self._deferred: list[Destination] = []
        self._uri = ""
        self._empty: list[InPlace | Destination] = []
        self._missing = set(targets)

    def run(self) -> frozenset[str]:
        """Fill the targets.

        Returns:
            The names of the filled targets.

        Raises:
            SourceError: names are missing or unexpected, or a tensor does not fit its target.
            ConfigError: a target has no memory.
        """
        self._check_targets()
        if not self._strict:
            self._headers.all()
        self._pass()
        if self._strict and self._missing:
            raise SourceError(
                f"{self._where()} does not have {_listed(self._missing)}, which the model needs; "
                "is it complete, and the checkpoint of this model and parallel size?"
            )
        return frozenset(set(self._targets) - self._missing)

    def _check_targets(self) -> None:
        for name, target in self._targets.items():
            if target.is_meta:
                raise ConfigError(
                    f"the target {name} is on the meta device and has no memory to load into; "
                    "materialise it first, for example with torch.empty_like(..., device='cpu')"
                )

    def _pass(self) -> None:
        select = by_name(None if self._strict else frozenset(self._targets))
        order = reading_order(self._feed, self._headers, select)
        number = self._feed.begin(order)
        engine = engine_for({target.device for target in self._targets.values()}, self._feed)
        with Copier[InPlace | Destination](self._feed, number, engine, count(order)) as copier:
            engine.fence()
            for shard in range(len(self._feed.shards)):
                catalog = self._headers.in_pass(number, shard)
                self._load_shard(copier, shard, catalog, select(shard, catalog))
            self._finish(copier.drain())
        for destination in self._deferred:
            destination.finish()
            self._on_tensors([destination.entry])

    def _load_shard(
        self,
        copier: Copier[InPlace | Destination],
        shard: int,
        catalog: ShardCatalog,
        entries: Sequence[TensorEntry],
    ) -> None:
        self._uri = catalog.uri
        unexpected = [entry.name for entry in entries if entry.name not in self._targets]
        if unexpected:
            raise SourceError(
                f"{catalog.uri} has {_listed(unexpected)}, which the model does not; "
                "is it the checkpoint of this model and parallel size?"
            )
        spans = self._planned(entries)
        for job in block_jobs(shard, spans, self._feed.block_bytes, self._place):
            self._finish(copier.submit(job))
        self._finish(self._empty)
        self._empty.clear()

    def _planned(self, entries: Sequence[TensorEntry]) -> Iterator[InPlace | _Detour]:
        """The spans in which stored tensors go to their targets; notes the names found."""
        self._missing.difference_update(entry.name for entry in entries)
        straight = InPlaceSpans(self._uri)
        for entry in entries:
            target = self._targets[entry.name]
            same = matches(entry, target)
            deferred = bool(self._groups) and self._shares_later(entry.name)
            if same and not deferred and plain(target):
                yield from straight.add(entry, target)
            else:
                yield from straight.cut()
                yield _Detour(entry.start, entry.stop, entry, target.data, same, deferred)
        yield from straight.cut()

    def _place(self, span: InPlace | _Detour) -> InPlace | Destination:
        """The memory of a span: the targets' own, or a new private tensor."""
        if isinstance(span, InPlace):
            if not span.left_bytes:
                self._empty.append(span)
            return span
        entry, target = span.entry, span.target
        if not span.same and self._on_mismatch is not None:
            self._on_mismatch(entry.name, catalog_entry(self._uri, entry), target)
        stage = fresh(entry, torch.device("cpu"))
        destination = Destination(
            entry, stage, uri=self._uri, target=target, deferred=span.deferred
        )
        if span.deferred:
            self._deferred.append(destination)
        elif not destination.left_bytes:
            self._empty.append(destination)
        return destination

    def _shares_later(self, name: str) -> bool:
        """Whether an earlier tensor of this pass goes to the same memory; notes this tensor."""
        group = self._groups.get(name)
        if group is None:
            return False
        later = group in self._claimed
        self._claimed.add(group)
        return later

    def _finish(self, completed: Iterable[InPlace | Destination]) -> None:
        for one in completed:
            if isinstance(one, InPlace):
                self._on_tensors(one.entries)
            elif not one.deferred:
                one.finish()
                self._on_tensors([one.entry])

    def _where(self) -> str:
        uris = [shard.uri for shard in self._feed.shards]
        return uris[0] if len(uris) == 1 else f"{uris[0]} (one of {len(uris)} shards)"


def _bare(target: torch.Tensor) -> torch.Tensor:
    """The target without its subclass, which may intercept each access and make it slow."""
    return target if type(target) in (torch.Tensor, torch.nn.Parameter) else target.data


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - NAMES_SHOWN
    return ", ".join(ordered[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
