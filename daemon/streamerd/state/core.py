"""The core: one turn takes events in and gives commands out.

Runs in the daemon's loop, is called by `service.py` alone, and touches nothing outside itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from streamerd.state import admission, adoption, claims, credentials, failing, fetching
from streamerd.state.commands import AnyCommand, CloseSource, Finish
from streamerd.state.events import (
    AnyEvent,
    BlockFetched,
    BlockProven,
    BlockRefuted,
    BlocksConsumed,
    BlocksReleased,
    CredentialsRenewed,
    EvictRequested,
    FetchFailed,
    LimitChanged,
    LoadClosed,
    LoadOpened,
    OwnerGone,
    PinRequested,
    ShardAdopted,
    ShardKey,
    ShardRefused,
    ShardsReleased,
    ShardSuperseded,
    Tick,
    UnpinRequested,
    WantsReplaced,
)
from streamerd.state.ledger import Ledger
from streamerd.state.model import Model, Rules
from streamerd.state.shard import Shard


class Core:
    """Decides; `handle` is its only door, `model` may be read between turns."""

    def __init__(self, limit_bytes: int, rules: Rules) -> None:
        self.model = Model(rules, Ledger(limit_bytes))

    def handle(self, events: Iterable[AnyEvent]) -> list[AnyCommand]:
        """Apply events in their order, then decide once for all of them.

        Raises:
            InvalidTransition: an event contradicts the state; a defect of the caller.
        """
        model = self.model
        now_s = 0.0
        for event in events:
            now_s = max(now_s, event.at_s)
            self._apply(event)
        claims.grant_arrived(model)
        admission.admit_waiting(model)
        claims.claim_all(model)
        fetching.shrink(model)
        fetching.dispatch(model, now_s)
        return [*model.drain(), *self._finished(), *self._sources_to_close()]

    def _apply(self, event: AnyEvent) -> None:
        model = self.model
        match event:
            case BlockFetched():
                fetching.fetched(model, event)
                self._settle(event.shard)
            case BlocksConsumed(at_s, key, ranges):
                if load := model.loads.get(key):
                    claims.consume(model, load, ranges, at_s)
            case FetchFailed():
                fetching.failed(model, event)
                self._settle(event.shard)
            case BlocksReleased():
                admission.settle(model, fetching.released(model, event))
            case ShardAdopted():
                adoption.adopt(model, event)
            case BlockProven(_, key, block):
                adoption.proven(model, key, block)
                self._settle(key)
            case BlockRefuted(_, key, block):
                adoption.refuted(model, key, block)
            case LoadOpened():
                admission.open_load(model, event)
            case WantsReplaced(_, key, wants):
                if load := model.loads.get(key):
                    claims.replace_wants(model, load, wants)
            case ShardsReleased(at_s, key, shards):
                if load := model.loads.get(key):
                    for index in shards:
                        admission.release_shard(model, load, index, at_s)
            case LoadClosed(at_s, key):
                if load := model.loads.get(key):
                    admission.close_load(model, load, at_s)
            case CredentialsRenewed():
                if load := model.loads.get(event.load):
                    credentials.renewed(model, load, event)
            case OwnerGone(at_s, owner):
                for load in [load for load in model.loads.values() if load.key.owner == owner]:
                    admission.close_load(model, load, at_s)
            case ShardSuperseded() | ShardRefused():
                self._refuse(event)
            case EvictRequested() | PinRequested() | UnpinRequested():
                self._control_cache(event)
            case LimitChanged(_, limit_bytes):
                model.ledger.limit_bytes = limit_bytes
            case Tick(at_s):
                model.ledger.squeezed_to_bytes = None
                credentials.tick(model, at_s)
            case _:
                assert_never(event)

    def _refuse(self, event: ShardSuperseded | ShardRefused) -> None:
        for shard in self._known((event.shard,)):
            if isinstance(event, ShardSuperseded):
                failing.supersede(self.model, shard, event.message)
                admission.settle(self.model, shard)
            else:
                failing.fail_loads(self.model, shard, (event.load,), event.code, event.message)

    def _control_cache(self, event: EvictRequested | PinRequested | UnpinRequested) -> None:
        shards = self._known(event.shards)
        if isinstance(event, PinRequested):
            admission.pin(self.model, shards)
            return
        act = admission.evict if isinstance(event, EvictRequested) else admission.unpin
        for shard in shards:
            act(self.model, shard)

    def _sources_to_close(self) -> list[CloseSource]:
        """Shards of which nothing is left to read, each told once."""
        touched, self.model.touched = self.model.touched, {}
        idle = [shard for shard in self._known(touched) if shard.sourced and not shard.needs_source]
        for shard in idle:
            shard.sourced = False
        return [CloseSource(shard.key) for shard in idle]

    def _known(self, keys: Iterable[ShardKey]) -> list[Shard]:
        return [self.model.shards[key] for key in keys if key in self.model.shards]

    def _settle(self, key: ShardKey) -> None:
        if shard := self.model.shards.get(key):
            admission.settle(self.model, shard)

    def _finished(self) -> list[Finish]:
        """Prefetches that have all they wanted, each told once."""
        done = [
            load
            for load in self.model.loads.values()
            if load.prefetch
            and load.admitted
            and not (load.finished or load.wants or load.pending_blocks)
        ]
        for load in done:
            load.finished = True
        return [Finish(load.key) for load in done]
