"""What a shard that cannot be read means for the loads that lease it."""

from __future__ import annotations

from collections.abc import Iterable

from streamer_client.contract.errors import SourceChanged
from streamerd.state import claims
from streamerd.state.commands import FailShard
from streamerd.state.events import LoadKey
from streamerd.state.load import Load, Phase
from streamerd.state.model import Model
from streamerd.state.shard import Shard


def fail_shard(model: Model, shard: Shard, code: str, message: str) -> None:
    """No load gets a further block of this shard; each is told once."""
    if shard.error is None:  # several blocks may be under way when the first fails
        model.totals.errors += 1
        shard.error = (code, message)
    _tell(model, shard, tuple(shard.loads), code, message)


def fail_loads(
    model: Model, shard: Shard, keys: Iterable[LoadKey], code: str, message: str
) -> None:
    """These loads get no further block of this shard; others go on with it."""
    if not _tell(model, shard, keys, code, message):
        return
    model.totals.errors += 1
    if all(index in model.loads[key].failed for key, index in shard.loads.items()):
        shard.error = (code, message)


def supersede(model: Model, shard: Shard, message: str) -> None:
    """The source has other bytes now: its loads end, and nobody is given these again."""
    shard.stale = True
    fail_shard(model, shard, SourceChanged.code, message)


def _tell(model: Model, shard: Shard, keys: Iterable[LoadKey], code: str, message: str) -> bool:
    """Fail the shard for these loads; whether any had not failed before."""
    told = False
    for key in keys:
        index = shard.loads.get(key)
        load = model.loads.get(key)
        if load is None or index is None or index in load.failed:
            continue
        load.failed.add(index)
        _drop_pending(model, load, index)
        model.emit(FailShard(key, index, code, message))
        told = True
    return told


def _drop_pending(model: Model, load: Load, index: int) -> None:
    """Claims on blocks that will not come end; what was granted stays readable."""
    phases = load.phases[index]
    for block in range(len(phases)):
        if phases[block] == Phase.CLAIMED:
            claims.unclaim(model, load, index, block, block + 1, Phase.CLAIMED)
        elif phases[block] == Phase.WANTED:
            phases[block] = Phase.NONE
