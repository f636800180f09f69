"""Taking over what an earlier daemon left in shared memory.

A block of it counts as any other once its bytes are known to be what was read; until then it is
reserved, and loads that claim it wait. A slab that clients of that daemon may have mapped is *kept*
(`Shard.kept`): they lease nothing from us, so no block may be taken from under their views.
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
    """Enter a shard that lies in memory; pinned, where its room can be set aside."""
    assert event.shard not in model.shards, "adoption comes before the first load"
    shard = Shard(event.shard, event.size_bytes, model.rules.block_bytes, event.remote)
    shard.kept = event.in_use
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
    """A block is what was read: it is granted to all that wait for it."""
    shard = model.shards[key]
    shard.move(block, Trigger.PROVEN)
    model.touched[key] = None
    if shard.claims[block]:
        model.arrived.setdefault(key, []).append(block)
    else:
        model.eviction.note_unclaimed(shard, block)


def refuted(model: Model, key: ShardKey, block: int) -> None:
    """A block is not what was read: who waits for it gets it from the source.

    It may be taken even from a kept slab. It differs because the earlier daemon was about to fill
    it when it died, so that nobody was granted it; or its memory is damaged, for all alike.
    """
    shard = model.shards[key]
    shard.move(block, Trigger.REFUTED)
    give_back(model, shard, block)
