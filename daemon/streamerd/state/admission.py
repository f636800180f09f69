"""Decides which loads run and which wait, how a load begins and ends, and how slabs are adopted.

A load is admitted when its promise fits the ledger: all its shards when it asks to hold them, else
its smallest window. Loads that do not fit wait in line, and while one waits, no window grows.

Adoption: the slabs that an earlier daemon left in shared memory become shards of this one. An
adopted block is *unproven* until its bytes are known to be those that were read. Until then its
memory is reserved, and loads that claim it wait. Clients of the earlier daemon may have the slab
mapped, and have no lease with this daemon. Such a slab is `whole_only`: no single block of it is
released.
"""

from __future__ import annotations

from streamer_client.contract.errors import MemoryLimitError
from streamer_client.contract.sizes import format_size
from streamerd.state import claims
from streamerd.state.commands import CreateSlab, ProveBlocks, Reject, RemoveSlab, ReportWaiting
from streamerd.state.events import LoadOpened, ShardAdopted, ShardKey, ShardSpec
from streamerd.state.fetching import discard, give_back, release_range
from streamerd.state.lifecycle import Trigger
from streamerd.state.load import Load, Phase
from streamerd.state.model import Model
from streamerd.state.shard import Shard


def open_load(model: Model, event: LoadOpened) -> None:
    """Enter a load and its shards; admit the load where its promise fits, else let it wait."""
    load = Load(
        event.load,
        [_shard_of(model, spec) for spec in event.shards],
        options=event.options,
        prefetch=event.prefetch,
        pin=event.pin,
        last_progress_s=event.at_s,
    )
    total_bytes = sum(shard.slab_bytes for shard in load.shards)
    load.window_bytes = min(model.rules.window_bytes, total_bytes)
    if event.options.memory_limit >= 0:
        load.cap_bytes = max(event.options.memory_limit, load.window_bytes)
    for index, shard in enumerate(load.shards):
        shard.loads[load.key] = index
        shard.last_used_s = event.at_s
    load.want(event.wants)
    model.loads[load.key] = load
    model.eviction.rescan = True
    if not admit(model, load):
        _queue(model, load)


def _shard_of(model: Model, spec: ShardSpec) -> Shard:
    for other in list(model.contents.get(spec.key.uri, ())):
        if other.key != spec.key:
            other.stale = True
            settle(model, other)
    shard = model.shards.get(spec.key)
    if shard is None:
        shard = Shard(spec.key, spec.size_bytes, model.rules.block_bytes, spec.remote)
        model.add(shard)
        model.emit(CreateSlab(spec.key, spec.size_bytes))
    # A load that opens the shard after a failure makes a new attempt.
    shard.error = None
    shard.stale = spec.transient
    shard.sourced = True
    model.touched[shard.key] = None
    return shard


def admit(model: Model, load: Load) -> bool:
    """Admit a load where its promise fits."""
    if load.options.hold and _can_hold(model, load):
        _hold(model, load)
    elif load.prefetch or not _promise_window(model, load):
        return False
    else:
        model.ledger.committed_bytes += load.commitment_bytes
    load.admitted = True
    model.rotation.append(load)
    model.admitted[load.key] = sum(shard.resident_in(0, shard.blocks) for shard in load.shards)
    claims.claim_wanted(model, load)
    return True


def _can_hold(model: Model, load: Load) -> bool:
    total_bytes = sum(shard.slab_bytes for shard in load.shards)
    if load.cap_bytes is not None and total_bytes > load.cap_bytes:
        return False
    # One smallest window stays free, so that loads which hold shards whole shut no other load out.
    return model.ledger.can_commit(_bytes_to_hold(load.shards) + model.rules.window_bytes)


def _bytes_to_hold(shards: list[Shard]) -> int:
    return sum(shard.slab_bytes for shard in shards if not shard.committed)


def _hold(model: Model, load: Load) -> None:
    model.ledger.committed_bytes += _bytes_to_hold(load.shards)
    load.held = True
    for shard in load.shards:
        shard.holders += 1
        shard.pinned = shard.pinned or load.pin
        model.touched[shard.key] = None


def _promise_window(model: Model, load: Load) -> bool:
    """Promise a load its smallest window, and its `whole_only` shards as a whole.

    Where these shards do not fit, their slabs are replaced by empty ones, provided that no
    admitted load leases them. Returns whether the load was promised its window.
    """
    uncommitted = [shard for shard in load.shards if shard.whole_only and not shard.committed]
    whole_bytes = _bytes_to_hold(uncommitted)
    spare_bytes = model.rules.window_bytes if uncommitted else 0
    if not model.ledger.can_commit(load.window_bytes + whole_bytes + spare_bytes):
        if not model.ledger.can_commit(load.window_bytes):
            return False
        if not all(shard.discardable for shard in uncommitted):
            return False
        for shard in uncommitted:
            discard(model, shard)
        whole_bytes = 0
    model.ledger.committed_bytes += whole_bytes
    load.whole = {index for index, shard in enumerate(load.shards) if shard.whole_only}
    for index in load.whole:
        load.shards[index].holders += 1
        model.touched[load.shards[index].key] = None
    return True


def _queue(model: Model, load: Load) -> None:
    ledger = model.ledger
    available_bytes = max(0, ledger.limit_bytes - ledger.committed_bytes)
    if load.prefetch:
        needs_bytes = _bytes_to_hold(load.shards) + model.rules.window_bytes
        message = (
            f"{len(load.shards)} shards need {format_size(needs_bytes)} (one smallest window stays "
            f"free), {format_size(available_bytes)} of the memory limit of "
            f"{format_size(ledger.limit_bytes)} are not promised to others; raise "
            "memory_limit, unpin something, or take fewer shards with --pattern"
        )
        close_load(model, load, load.last_progress_s)
        model.emit(Reject(load.key, MemoryLimitError.code, message))
        return
    model.waiting.append(load.key)
    model.emit(ReportWaiting(load.key, load.window_bytes, available_bytes, ledger.limit_bytes))


def admit_waiting(model: Model) -> None:
    """Admit waiting loads in the order in which they came."""
    while model.waiting and admit(model, model.loads[model.waiting[0]]):
        model.waiting.popleft()


def release_shard(model: Model, load: Load, index: int, at_s: float) -> None:
    """End a load's lease on one shard."""
    if index in load.released:
        return
    shard = load.shards[index]
    claims.unclaim(model, load, index, 0, shard.blocks, Phase.CLAIMED)
    load.phases[index] = bytearray(shard.blocks)
    load.released.add(index)
    del shard.loads[load.key]
    shard.last_used_s = at_s
    if load.held or index in load.whole:
        shard.holders -= 1
        if not shard.committed:
            model.ledger.committed_bytes -= shard.slab_bytes
    model.eviction.rescan = True
    model.touched[shard.key] = None
    settle(model, shard)


def close_load(model: Model, load: Load, at_s: float) -> None:
    """End a load, whatever its state."""
    for index in range(len(load.shards)):
        release_shard(model, load, index, at_s)
    if load.admitted:
        model.ledger.committed_bytes -= load.commitment_bytes
        model.rotation.remove(load)
    elif load.key in model.waiting:
        model.waiting.remove(load.key)
    del model.loads[load.key]


def pin(model: Model, shards: list[Shard]) -> bool:
    """Pin shards where room for all of them can be set aside."""
    needed_bytes = _bytes_to_hold(shards)
    if not model.ledger.can_commit(
        needed_bytes + (model.rules.window_bytes if needed_bytes else 0)
    ):
        return False
    model.ledger.committed_bytes += needed_bytes
    for shard in shards:
        shard.pinned = True
    return True


def unpin(model: Model, shard: Shard) -> None:
    """Give up the room that was set aside for a pinned shard."""
    if shard.pinned:
        shard.pinned = False
        if not shard.committed:
            model.ledger.committed_bytes -= shard.slab_bytes
        settle(model, shard)


def evict(model: Model, shard: Shard) -> None:
    """Release the blocks of a shard that no load needs.

    If no load leases the shard, blocks that are still being fetched are released when they arrive.
    """
    if not shard.loads and not shard.pinned:
        shard.stale = True
    release_range(model, shard, 0, shard.blocks)
    settle(model, shard)


def settle(model: Model, shard: Shard) -> None:
    """Release a shard that no load may use again, and remove an empty slab."""
    if shard.loads:
        return
    model.eviction.forget(shard)
    if shard.stale and shard.pinned:
        unpin(model, shard)
        return
    if (shard.stale or shard.error is not None) and not shard.pinned:
        release_range(model, shard, 0, shard.blocks)
    if shard.empty and model.shards.get(shard.key) is shard:
        model.remove(shard)
        model.emit(RemoveSlab(shard.key))


# --- adoption -----------------------------------------------------------------------------------


def adopt(model: Model, event: ShardAdopted) -> None:
    """Enter an adopted shard; pin it again if the ledger has room for the promise."""
    assert event.shard not in model.shards, "adoption comes before the first load"
    shard = Shard(event.shard, event.size_bytes, model.rules.block_bytes, event.remote)
    shard.whole_only = event.in_use
    shard.last_used_s = event.last_used_s
    model.add(shard)
    for start, stop in event.resident:
        shard.move_range(start, stop, Trigger.ADOPT)
        model.ledger.used_bytes += shard.bytes_of(start, stop)
        if event.proven:
            shard.move_range(start, stop, Trigger.PROVEN)
        else:
            model.emit(ProveBlocks(shard.key, start, stop))
    if event.pinned:
        pin(model, [shard])


def proven(model: Model, key: ShardKey, block: int) -> None:
    """Grant a block that was proven to have the bytes that were read to the loads that claim it."""
    shard = model.shards[key]
    shard.move(block, Trigger.PROVEN)
    model.touched[key] = None
    if shard.claims[block]:
        model.arrived[key].append(block)
    else:
        model.eviction.note_unclaimed(shard, block)


def refuted(model: Model, key: ShardKey, block: int) -> None:
    """Release a block with other bytes than were read; loads that claim it have it read again.

    Even a block of a `whole_only` slab is released. Either the earlier daemon died while it filled
    the block, so that no client was ever granted it, or its memory is damaged for every client.
    """
    shard = model.shards[key]
    shard.move(block, Trigger.REFUTED)
    give_back(model, shard, block)
