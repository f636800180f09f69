"""The core: one turn takes events in and gives commands out.

The core runs in the daemon's loop, is called by `service/turns.py` alone, and touches nothing
outside itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from streamerd.state import admission, claims, failing, fetching
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
from streamerd.state.load import Load
from streamerd.state.model import Ledger, Model, Rules
from streamerd.state.shard import Shard


class Core:
    """Makes the decisions. Others call `handle` alone, and may read `model` between two turns."""

    def __init__(self, limit_bytes: int, rules: Rules) -> None:
        self.model = Model(rules, Ledger(limit_bytes))
        self._now_s = 0.0
        """The latest time of any event. A turn without events takes this as the present time."""

    def handle(self, events: Iterable[AnyEvent]) -> list[AnyCommand]:
        """Apply events in their order, then decide once for all of them.

        Raises:
            InvalidTransition: an event contradicts the state; a defect of the caller.
        """
        model = self.model
        for event in events:
            self._now_s = max(self._now_s, event.at_s)
            self._apply(event)
        claims.grant_arrived(model)
        admission.admit_waiting(model)
        claims.claim_all(model)
        fetching.shrink(model)
        fetching.dispatch(model, self._now_s)
        return [*model.drain(), *self._finished(), *self._sources_to_close()]

    def _apply(self, event: AnyEvent) -> None:
        model = self.model
        match event:
            case BlockFetched():
                admission.settle(model, fetching.fetched(model, event))
            case BlocksConsumed():
                if load := model.loads.get(event.load):
                    claims.consume(model, load, event.ranges, event.at_s)
            case FetchFailed():
                admission.settle(model, fetching.failed(model, event))
            case BlocksReleased():
                admission.settle(model, fetching.released(model, event))
            case ShardAdopted():
                admission.adopt(model, event)
            case BlockProven(_, key, block):
                admission.proven(model, key, block)
                self._settle(key)
            case BlockRefuted(_, key, block):
                admission.refuted(model, key, block)
            case LoadOpened():
                admission.open_load(model, event)
            case WantsReplaced() | ShardsReleased() | LoadClosed():
                if load := model.loads.get(event.load):
                    self._apply_to_load(event, load)
            case CredentialsRenewed():
                if load := model.loads.get(event.load):
                    failing.credentials_renewed(model, load, event)
            case OwnerGone(at_s, owner):
                for load in [load for load in model.loads.values() if load.key.owner == owner]:
                    admission.close_load(model, load, at_s)
            case ShardSuperseded() | ShardRefused():
                self._refuse(event)
            case EvictRequested() | PinRequested() | UnpinRequested():
                self._control_cache(event)
            case LimitChanged() | Tick():
                self._apply_to_all(event)
            case _:
                assert_never(event)

    def _apply_to_load(
        self, event: WantsReplaced | ShardsReleased | LoadClosed, load: Load
    ) -> None:
        model = self.model
        match event:
            case WantsReplaced():
                claims.replace_wants(model, load, event.wants)
            case ShardsReleased():
                for index in event.shards:
                    admission.release_shard(model, load, index, event.at_s)
            case LoadClosed():
                admission.close_load(model, load, event.at_s)
            case _:
                assert_never(event)

    def _apply_to_all(self, event: LimitChanged | Tick) -> None:
        if isinstance(event, LimitChanged):
            self.model.ledger.limit_bytes = event.limit_bytes
            return
        self.model.ledger.squeezed_to_bytes = None
        failing.give_up_on_credentials(self.model, event.at_s)

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
        """Close the source of each shard that nobody has to read any more; a source closes once."""
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
        """Finish each prefetch whose wanted blocks are all resident; a prefetch finishes once."""
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
