"""Adoption: the slabs that an earlier daemon left in shared memory become shards of this one.

An adopted block is *unproven* until its bytes are known to be those that were read: its memory is
reserved, and loads that claim it wait. Clients of the earlier daemon may have the slab mapped, and
have no lease with this daemon. Such a slab is `whole_only`: no single block of it is released.
"""

from __future__ import annotations

from streamerd.state import admission
from streamerd.state.commands import ProveBlocks
from streamerd.state.events import ShardAdopted, ShardKey
from streamerd.state.fetching import give_back
from streamerd.state.lifecycle import Trigger
from streamerd.state.model import Model
from streamerd.state.shard import Shard


def adopt(model: Model, event: ShardAdopted) -> None:
    """Enter an adopted shard; it is pinned again where the ledger has room for the promise."""
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
        admission.pin(model, [shard])


def proven(model: Model, key: ShardKey, block: int) -> None:
    """A block has the bytes that were read: grant it to the loads that claim it."""
    shard = model.shards[key]
    shard.move(block, Trigger.PROVEN)
    model.touched[key] = None
    if shard.claims[block]:
        model.arrived.setdefault(key, []).append(block)
    else:
        model.eviction.note_unclaimed(shard, block)


def refuted(model: Model, key: ShardKey, block: int) -> None:
    """A block has other bytes than were read: release it; loads that claim it have it read again.

    Even a block of a `whole_only` slab is released. Either the earlier daemon died while it filled
    the block, so that no client was ever granted it, or its memory is damaged for every client.
    """
    shard = model.shards[key]
    shard.move(block, Trigger.REFUTED)
    give_back(model, shard, block)
