"""Claiming, granting and consuming: how blocks pass through a load.

A load claims wanted blocks in order of use, as many as its window allows. A claimed block is
granted at once if it is resident, else when it has been fetched. Ranges whose blocks are all in the
same phase are changed in one step, so that opening a resident checkpoint costs a few passes in C.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from streamer_client.contract.layout import BlockRange
from streamerd.state.lifecycle import BlockState
from streamerd.state.load import Load, Phase
from streamerd.state.model import Model
from streamerd.state.shard import Shard

_CLAIMED: Final = bytes([Phase.CLAIMED])
_GRANTED: Final = bytes([Phase.GRANTED])


def claim_all(model: Model) -> None:
    """Let admitted loads claim the blocks that they want next, before they run out of blocks.

    A load whose pending blocks keep every slot busy does not claim yet: later it claims more blocks
    in one step, which is cheaper.
    """
    wanting = [
        load
        for load in model.loads.values()
        if load.wants and load.admitted and load.pending_blocks < model.slots[load.remote]
    ]
    if wanting:
        fair_bytes = _fair_bytes(model)
        for load in wanting:
            claim_wanted(model, load, fair_bytes)


def claim_wanted(model: Model, load: Load, fair_bytes: int | None = None) -> None:
    """Claim the blocks that the load wants next, as far as its window has room for them."""
    allowance = 0
    if not load.held:
        fair_bytes = _fair_bytes(model) if fair_bytes is None else fair_bytes
        allowance = _allowance_bytes(model, load, fair_bytes)
        if allowance <= 0:
            return
    while load.wants:
        index, start, stop = load.wants[0]
        phases = load.phases[index]
        first = phases.find(Phase.WANTED, start, stop) if load.usable(index) else -1
        if first < 0:
            load.wants.popleft()
            continue
        load.wants[0] = BlockRange(index, first, stop)
        past = _run_stop(phases, first, stop)
        if not load.held:
            past = _affordable_stop(load.shards[index], first, past, allowance)
            if past == first:
                return
            size_bytes = load.shards[index].bytes_of(first, past)
            allowance -= size_bytes
            model.charge(load, size_bytes)
        _claim(model, load, index, first, past)


def _fair_bytes(model: Model) -> int:
    """The size up to which each window may grow, so that all windows find room.

    Without this share the first of many loads would take all the room, and the others would go on
    with their smallest windows of two blocks.
    """
    windows = [
        load.commitment_bytes
        for load in model.loads.values()
        if load.admitted and not load.held and (load.wants or load.charge_bytes)
    ]
    return (model.ledger.growth_bytes + sum(windows)) // len(windows) if windows else 0


def _allowance_bytes(model: Model, load: Load, fair_bytes: int) -> int:
    """Bytes that a load may claim now, in addition to those that it has claimed."""
    charge, window = load.charge_bytes, load.window_bytes
    within_window = max(0, window - charge)
    if model.waiting:
        return within_window
    reach = fair_bytes if load.cap_bytes is None else min(fair_bytes, load.cap_bytes)
    growth = min(model.ledger.growth_bytes, reach - max(window, charge))
    return within_window + max(0, growth)


def _run_stop(phases: bytearray, first: int, stop: int) -> int:
    """End of the run of wanted blocks that begins at `first`."""
    if phases.count(Phase.WANTED, first, stop) == stop - first:
        return stop
    past = first + 1
    while past < stop and phases[past] == Phase.WANTED:
        past += 1
    return past


def _affordable_stop(shard: Shard, first: int, past: int, allowance: int) -> int:
    """The end of the part of a run that can be claimed with `allowance` bytes."""
    if shard.bytes_of(first, past) <= allowance:
        return past
    stop = min(past, first + allowance // shard.block_bytes)
    # The last block of a shard may be smaller than the others.
    return stop + 1 if stop < past and shard.bytes_of(first, stop + 1) <= allowance else stop


def _claim(model: Model, load: Load, index: int, start: int, stop: int) -> None:
    shard, phases = load.shards[index], load.phases[index]
    claims = shard.change_claims(start, stop, 1)
    load.note_claim(index, start, stop)
    if shard.all_resident(start, stop):
        phases[start:stop] = _GRANTED * (stop - start)
        model.totals.block_hits += stop - start
        model.grant(load, BlockRange(index, start, stop), shard.bytes_of(start, stop))
        return
    phases[start:stop] = _CLAIMED * (stop - start)
    load.pending_blocks += stop - start
    absent = shard.states.count(BlockState.ABSENT, start, stop)
    if absent:
        load.fetch_later(index, start, stop)
    # A block that another load already waits for causes no further read.
    if 0 < absent < stop - start:
        pairs = zip(shard.states[start:stop], claims, strict=True)
        misses = [count for state, count in pairs if state == BlockState.ABSENT].count(1)
    else:
        misses = claims.count(1) if absent else 0
    model.totals.block_misses += misses
    model.totals.block_hits += stop - start - misses
    _grant_resident(model, load, index, start, stop)


def _grant(model: Model, load: Load, blocks: BlockRange, size_bytes: int) -> None:
    """Grant blocks that are claimed and resident."""
    index, start, stop = blocks
    load.phases[index][start:stop] = _GRANTED * (stop - start)
    load.pending_blocks -= stop - start
    model.grant(load, blocks, size_bytes)


def _grant_resident(model: Model, load: Load, index: int, start: int, stop: int) -> None:
    """Grant those of some blocks that the load claims and that are resident."""
    shard, phases = load.shards[index], load.phases[index]
    block = shard.states.find(BlockState.RESIDENT, start, stop)
    while block >= 0:
        if phases[block] == Phase.CLAIMED:
            size_bytes = shard.bytes_of(block, block + 1)
            _grant(model, load, BlockRange(index, block, block + 1), size_bytes)
        block = shard.states.find(BlockState.RESIDENT, block + 1, stop)


def grant_arrived(model: Model) -> None:
    """Grant the blocks that became resident in this turn to the loads that claimed them."""
    for shard_key, blocks in model.take_arrived().items():
        shard = model.shards.get(shard_key)
        if shard is not None:
            for start, stop in _runs(sorted(blocks)):
                _grant_run(model, shard, start, stop)


def _grant_run(model: Model, shard: Shard, start: int, stop: int) -> None:
    """Grant neighbouring blocks that arrived, to each load in one step where it claims them all.

    A block that arrived may have been released again in the same turn, and been claimed since.
    """
    resident, size_bytes = shard.all_resident(start, stop), shard.bytes_of(start, stop)
    run = BlockRange(0, start, stop)
    for key, index in shard.loads.items():
        load = model.loads[key]
        if resident and load.phases[index].count(Phase.CLAIMED, start, stop) == stop - start:
            if run.shard != index:  # nearly all loads have the shard in the same place
                run = BlockRange(index, start, stop)
            _grant(model, load, run, size_bytes)
        else:
            _grant_resident(model, load, index, start, stop)


def _runs(blocks: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers in an ascending list, as half-open ranges."""
    start = stop = blocks[0]
    for block in blocks:
        if block > stop:
            yield start, stop
            start = block
        stop = block + 1
    yield start, stop


def consume(model: Model, load: Load, ranges: tuple[BlockRange, ...], at_s: float) -> None:
    """End the claims on blocks that a load has read.

    A load that holds its shards whole has its claims until it releases the shard.
    """
    load.last_progress_s = at_s
    for index, start, stop in ranges:
        shard = load.shards[index]
        before = load.consumed_bytes.get(index, 0)
        consumed = min(before + shard.bytes_of(start, stop), shard.slab_bytes)
        load.consumed_bytes[index] = consumed
        load.all_consumed_bytes += consumed - before
        if not load.held:
            unclaim(model, load, index, start, stop, Phase.GRANTED)


def unclaim(model: Model, load: Load, index: int, start: int, stop: int, least: Phase) -> None:
    """End the claims of a load on blocks whose phase is at least `least`."""
    shard, phases = load.shards[index], load.phases[index]
    if start < stop and phases.count(Phase.GRANTED, start, stop) == stop - start:
        _unclaim_granted(model, load, index, start, stop)
        return
    claims, freed_bytes = shard.claims, 0
    for block in range(start, stop):
        phase = phases[block]
        if phase < least:
            continue
        phases[block] = Phase.NONE
        size_bytes = shard.bytes_of(block, block + 1)
        freed_bytes += size_bytes
        if phase == Phase.CLAIMED:
            load.pending_blocks -= 1
        else:
            load.granted_bytes -= size_bytes
        claims[block] -= 1
        if not claims[block]:
            model.eviction.note_unclaimed(shard, block)
    if not load.held:
        model.charge(load, -freed_bytes)


def _unclaim_granted(model: Model, load: Load, index: int, start: int, stop: int) -> None:
    """The fast form of `unclaim` for a run of granted blocks, the usual case of `consume`."""
    shard = load.shards[index]
    load.phases[index][start:stop] = bytes(stop - start)
    size_bytes = shard.bytes_of(start, stop)
    load.granted_bytes -= size_bytes
    left = shard.change_claims(start, stop, -1)
    if not all(left):
        for block, count in enumerate(left, start):
            if not count:
                model.eviction.note_unclaimed(shard, block)
    if not load.held:
        model.charge(load, -size_bytes)


def replace_wants(model: Model, load: Load, ranges: tuple[BlockRange, ...]) -> None:
    """Replace the blocks that a load waits for by `ranges`; granted blocks stay granted."""
    for index, phases in enumerate(load.phases):
        if Phase.CLAIMED in phases:
            _unclaim_pending(model, load, index)
    load.clear_queue()
    load.want(ranges)
    model.eviction.rescan = True


def _unclaim_pending(model: Model, load: Load, index: int) -> None:
    phases = load.phases[index]
    block = phases.find(Phase.CLAIMED)
    while block >= 0:
        unclaim(model, load, index, block, block + 1, Phase.CLAIMED)
        block = phases.find(Phase.CLAIMED, block + 1)
