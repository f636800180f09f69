"""The invariants of the core between two turns. Only tests check them, after every step."""

from __future__ import annotations

from streamerd.state.lifecycle import BlockState
from streamerd.state.load import Load, Phase
from streamerd.state.model import Model
from streamerd.state.shard import Shard


def check(model: Model) -> None:
    """Verify every invariant.

    Raises:
        AssertionError: one is broken; the text says which, with the numbers.
    """
    _check_ledger(model)
    for shard in model.shards.values():
        _check_shard(model, shard)
    for load in model.loads.values():
        _check_load(model, load)
    under_way = {
        (shard.key, block)
        for shard in model.shards.values()
        for block in range(shard.blocks)
        if shard.states[block] == BlockState.FETCHING
    }
    _same("blocks under way", set(model.fetching), under_way)
    for remote, free in model.free_slots.items():
        mine = sum(model.shards[key].remote == remote for key, _ in model.fetching)
        _same(f"free slots, remote={remote}", free, model.slots[remote] - mine)
        assert free >= 0, f"{mine} fetches, remote={remote}"
    if not model.loads:
        leased = [s.key for s in model.shards.values() if s.loads or s.holders or any(s.claims)]
        _same("leased shards without a load", leased, [])


def _check_ledger(model: Model) -> None:
    ledger, shards = model.ledger, model.shards.values()
    used = sum(_bytes_in(s, *set(BlockState) - {BlockState.ABSENT}) for s in shards)
    _same("used bytes", ledger.used_bytes, used)
    releasing = sum(_bytes_in(s, BlockState.RELEASING) for s in shards)
    _same("releasing bytes", ledger.releasing_bytes, releasing)
    committed = sum(load.commitment_bytes for load in model.loads.values() if load.admitted)
    committed += sum(s.slab_bytes for s in shards if s.committed)
    _same("committed bytes", ledger.committed_bytes, committed)
    assert ledger.used_bytes <= ledger.limit_bytes, f"used {ledger} passes the limit"
    assert ledger.committed_bytes <= ledger.limit_bytes, f"promises {ledger} pass the limit"


def _check_shard(model: Model, shard: Shard) -> None:
    _same("resident bytes", shard.resident_bytes, _bytes_in(shard, BlockState.RESIDENT))
    loads = [(model.loads[key], index) for key, index in shard.loads.items()]
    _same("holders", shard.holders, sum(load.held or index in load.whole for load, index in loads))
    if any(load.admitted for load, _ in loads):
        assert shard.committed or not shard.whole_only, (
            f"{shard.key.uri} may not go, and is no promise"
        )
    for block in range(shard.blocks):
        claims = sum(load.phases[index][block] >= Phase.CLAIMED for load, index in loads)
        _same(f"claims on {shard.key.uri}[{block}]", shard.claims[block], claims)


def _check_load(model: Model, load: Load) -> None:
    charged = granted = pending = 0
    for index, shard in enumerate(load.shards):
        assert (shard.loads.get(load.key) == index) != (index in load.released), "lease list"
        for block, phase in enumerate(load.phases[index]):
            size_bytes = shard.bytes_of(block, block + 1)
            charged += size_bytes * (phase >= Phase.CLAIMED)
            granted += size_bytes * (phase == Phase.GRANTED)
            pending += phase == Phase.CLAIMED
            if phase == Phase.GRANTED:
                state = BlockState(shard.states[block])
                _same("state of a granted block", state, BlockState.RESIDENT)
    _same("charged bytes", load.charge_bytes, 0 if load.held else charged)
    _same("granted bytes", load.granted_bytes, granted)
    _same("pending blocks", load.pending_blocks, pending)
    if load.cap_bytes is not None and not load.held:
        assert charged <= load.cap_bytes, "a load's own limit"
    mine = sum(owner is load for owner in model.fetching.values())
    _same("fetches in flight", load.in_flight, mine)


def _bytes_in(shard: Shard, *states: BlockState) -> int:
    return sum(
        shard.bytes_of(block, block + 1)
        for block in range(shard.blocks)
        if shard.states[block] in states
    )


def _same(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what}: the model says {found}, counting says {expected}"
