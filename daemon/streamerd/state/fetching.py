"""Decides which blocks are fetched next, how room is made for them, and what a fetch's end means.

Loads take turns, one block each, so that a small model does not wait for a large one.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamer_client.contract.errors import MemoryLimitError, StreamerError
from streamerd.state.commands import FetchBlock, ReleaseBlocks, ReplaceSlab
from streamerd.state.events import BlockFetched, BlocksReleased, FailureKind, FetchFailed, LoadKey
from streamerd.state.eviction import Victim
from streamerd.state.failing import credentials_refused, fail_shard, load_with_credentials
from streamerd.state.lifecycle import Trigger
from streamerd.state.load import RUN_BLOCKS, Load, Phase
from streamerd.state.model import Model
from streamerd.state.shard import Shard


def dispatch(model: Model, now_s: float) -> None:
    """Start fetches until all slots are busy, no load needs a block, or room must be made."""
    ledger = model.ledger
    while (due := _next_fetch(model)) is not None:
        load, index, block, credentials_of = due
        shard = load.shards[index]
        size_bytes = shard.bytes_of(block, block + 1)
        if not ledger.room_for(size_bytes):
            _make_room(model, size_bytes, now_s, remote=shard.remote)
            return
        load.note_fetch(index)
        shard.move(block, Trigger.RESERVE)
        ledger.used_bytes += size_bytes
        model.fetching[shard.key, block] = load
        model.free_slots[shard.remote] -= 1
        model.outbox.append(FetchBlock(shard.key, block, credentials_of))


def _next_fetch(model: Model) -> tuple[Load, int, int, LoadKey] | None:
    """The load whose turn it is, the block that it needs next, and whose credentials to use."""
    rotation, free_slots = model.rotation, model.free_slots
    for _ in range(len(rotation)):
        load = rotation[0]
        rotation.rotate(-1)
        free = free_slots[load.remote]
        if free and _may_begin(model, load, free) and (due := load.next_fetch()):
            index, block = due
            credentials_of = load_with_credentials(model, load, index)
            if credentials_of is not None:
                return load, index, block, credentials_of
    return None


def _may_begin(model: Model, load: Load, free: int) -> bool:
    """Whether this load may start a fetch where `free` slots are free: some must be for a new run.

    A run never waits for more than a quarter of the slots, so that nearly all are in use.
    """
    most = load.options.concurrency
    if most is not None:
        free = min(free, most - load.in_flight)
    if load.run_left:
        return free > 0
    slots = model.slots[load.remote]
    if most is not None:
        slots = min(slots, most)
    return free >= min(RUN_BLOCKS, max(1, slots // 4))


def _make_room(model: Model, size_bytes: int, now_s: float, *, remote: bool) -> None:
    """Release memory for as many blocks as slots are free.

    Blocks that only stuck loads want are released too, but only for the one block that is due.
    """
    blocks = sum(
        queued.stop - queued.start
        for load in model.loads.values()
        if load.remote == remote
        for queued in load.to_fetch
    )
    demand_bytes = max(size_bytes, min(model.free_slots[remote], blocks) * model.rules.block_bytes)
    demand_bytes = min(demand_bytes, model.ledger.usable_bytes)
    _release_victims(model, model.eviction.unwanted(), demand_bytes)
    if model.ledger.shortage(size_bytes) > 0:
        _release_victims(model, model.eviction.wanted_by_stuck(now_s), size_bytes)


def _release_victims(model: Model, victims: Iterable[Victim], demand_bytes: int) -> None:
    missing_bytes = model.ledger.shortage(demand_bytes)
    if missing_bytes <= 0:
        return
    for shard, block in victims:
        if shard.whole_only:
            missing_bytes -= discard(model, shard)
        else:
            missing_bytes -= _release(model, shard, block)
        if missing_bytes <= 0:
            return


def shrink(model: Model) -> None:
    """Release unwanted blocks until the used memory is within a limit that was lowered.

    Every turn calls this, since blocks that are in use now can only be released later.
    """
    _release_victims(model, model.eviction.unwanted(), 0)


def _release(model: Model, shard: Shard, block: int) -> int:
    """Take an unneeded block's memory back, and count it as evicted; returns its size in bytes."""
    shard.move(block, Trigger.RELEASE)
    size_bytes = give_back(model, shard, block)
    model.totals.evicted_bytes += size_bytes
    return size_bytes


def discard(model: Model, shard: Shard) -> int:
    """Replace a `whole_only` slab by an empty one, if the slab can be given up now.

    Returns:
        The bytes that this gives back.
    """
    if not shard.discardable:
        return 0
    size_bytes, ranges = shard.resident_bytes, shard.resident_runs()
    for start, stop in ranges:
        shard.move_range(start, stop, Trigger.RELEASE)
    model.totals.evicted_bytes += size_bytes
    model.ledger.releasing_bytes += size_bytes
    shard.whole_only = False
    model.emit(ReplaceSlab(shard.key, shard.size_bytes, ranges))
    return size_bytes


def give_back(model: Model, shard: Shard, block: int) -> int:
    """Have a worker release a block's memory; neighbours of one turn share a command.

    Returns:
        The block's size in bytes.
    """
    size_bytes = shard.bytes_of(block, block + 1)
    model.ledger.releasing_bytes += size_bytes
    outbox = model.outbox
    last = outbox[-1] if outbox else None
    if isinstance(last, ReleaseBlocks) and last.shard == shard.key:
        if last.stop == block:
            outbox[-1] = ReleaseBlocks(shard.key, last.start, block + 1)
            return size_bytes
        if last.start == block + 1:
            outbox[-1] = ReleaseBlocks(shard.key, block, last.stop)
            return size_bytes
    outbox.append(ReleaseBlocks(shard.key, block, block + 1))
    return size_bytes


def release_range(model: Model, shard: Shard, start: int, stop: int) -> None:
    """Release what may be released of a range of blocks; a `whole_only` slab goes as a whole."""
    discard(model, shard)
    for block in range(start, stop):
        if shard.releasable(block):
            _release(model, shard, block)


def fetched(model: Model, event: BlockFetched) -> Shard:
    """Note that a block was read; the end of the turn grants it to the loads that claim it."""
    shard, block = model.shards[event.shard], event.block
    _end_fetch(model, shard, block)
    shard.move(block, Trigger.FETCHED)
    if shard.attempts:
        shard.attempts.pop(block, None)
    model.touched[shard.key] = None
    model.no_space_since_s = None
    if shard.claims[block]:
        model.arrived[shard.key].append(block)
    else:
        model.eviction.note_unclaimed(shard, block)
    return shard


def failed(model: Model, event: FetchFailed) -> Shard:
    """Note that a fetch failed; `FailureKind` says what follows."""
    shard = model.shards[event.shard]
    _end_fetch(model, shard, event.block)
    if event.kind is FailureKind.NO_SPACE:
        _no_space(model, shard, event)
        return shard
    shard.move(event.block, Trigger.BROKEN)
    give_back(model, shard, event.block)
    if event.kind is FailureKind.ERROR:
        fail_shard(model, shard, event.code, event.message)
    elif event.kind in (FailureKind.DENIED, FailureKind.EXPIRED):
        credentials_refused(model, shard, event)
    else:
        _worker_died(model, shard, event)
    return shard


def _worker_died(model: Model, shard: Shard, event: FetchFailed) -> None:
    attempts = shard.attempts[event.block] = shard.attempts.get(event.block, 0) + 1
    model.totals.retries_by_reason[event.kind.value] += 1
    if attempts >= model.rules.attempts:
        message = f"{attempts} fetch workers died reading block {event.block}: {event.message}"
        fail_shard(model, shard, StreamerError.code, message)


def _end_fetch(model: Model, shard: Shard, block: int) -> None:
    model.free_slots[shard.remote] += 1
    model.fetching.pop((shard.key, block)).in_flight -= 1


def _no_space(model: Model, shard: Shard, event: FetchFailed) -> None:
    """Use less memory until the next tick: the shared-memory mount is full below the limit."""
    ledger = model.ledger
    shard.move(event.block, Trigger.NOT_BACKED)
    ledger.used_bytes -= shard.bytes_of(event.block, event.block + 1)
    ledger.squeezed_to_bytes = ledger.used_bytes
    model.totals.retries_by_reason[event.kind.value] += 1
    if model.no_space_since_s is None:
        model.no_space_since_s = event.at_s
    if event.at_s - model.no_space_since_s >= model.rules.space_wait_s:
        fail_shard(model, shard, MemoryLimitError.code, event.message)
    else:
        _fetch_again(model, shard, event.block)


def released(model: Model, event: BlocksReleased) -> Shard:
    """Note that blocks' memory was released; blocks that loads have claimed since are fetched."""
    shard = model.shards[event.shard]
    shard.move_range(event.start, event.stop, Trigger.RELEASED)
    size_bytes = shard.bytes_of(event.start, event.stop)
    model.ledger.used_bytes -= size_bytes
    model.ledger.releasing_bytes -= size_bytes
    for block, claims in enumerate(shard.claims[event.start : event.stop], event.start):
        if claims:
            _fetch_again(model, shard, block)
    return shard


def _fetch_again(model: Model, shard: Shard, block: int) -> None:
    for key, index in shard.loads.items():
        load = model.loads[key]
        if load.phases[index][block] == Phase.CLAIMED:
            load.fetch_first(index, block)
