"""Decides what follows when a shard cannot be read: which loads fail or wait for credentials.

A source that cannot be read fails its shard for every load. Refused credentials are different. Each
load that leases a shard has shown that it may read it, so a fetch may use the credentials of any of
them. Bad credentials therefore fail at most the load that brought them. Other loads read on, and
even that load receives the blocks that the other loads' credentials bring in. A load whose shard no
credentials can read any more waits until its client has renewed its own, and fails if that takes
too long.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamer_client.contract.errors import SourceChanged
from streamerd.state import claims
from streamerd.state.commands import AskCredentials, FailShard
from streamerd.state.events import CredentialsRenewed, FailureKind, FetchFailed, LoadKey
from streamerd.state.load import Load, Phase
from streamerd.state.model import Model
from streamerd.state.shard import Shard


def fail_shard(model: Model, shard: Shard, code: str, message: str) -> None:
    """Fail the shard for every load that leases it; each load is told once."""
    if shard.error is None:  # several blocks may be under way when the first fails
        model.totals.errors_by_code[code] += 1
        shard.error = (code, message)
    _tell(model, shard, tuple(shard.loads), code, message)


def fail_loads(
    model: Model, shard: Shard, keys: Iterable[LoadKey], code: str, message: str
) -> None:
    """Fail the shard for these loads; others go on reading it."""
    if not _tell(model, shard, keys, code, message):
        return
    model.totals.errors_by_code[code] += 1
    if all(index in model.loads[key].failed for key, index in shard.loads.items()):
        shard.error = (code, message)


def supersede(model: Model, shard: Shard, message: str) -> None:
    """Fail the shard for its loads, and never grant it again: its source has other bytes now."""
    shard.stale = True
    fail_shard(model, shard, SourceChanged.code, message)


def _tell(model: Model, shard: Shard, keys: Iterable[LoadKey], code: str, message: str) -> bool:
    """Fail the shard for these loads; returns whether any of them had not failed it before."""
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
    """End the load's claims on blocks that will not come; granted blocks stay readable."""
    phases = load.phases[index]
    for block in range(len(phases)):
        if phases[block] == Phase.CLAIMED:
            claims.unclaim(model, load, index, block, block + 1, Phase.CLAIMED)
        elif phases[block] == Phase.WANTED:
            phases[block] = Phase.NONE


# --- credentials ----------------------------------------------------------------------------------


def load_with_credentials(model: Model, load: Load, index: int) -> LoadKey | None:
    """The load whose credentials are used to fetch a block of shard `index` for `load`.

    This is `load` itself, unless its credentials have expired. Then it is another load of the same
    shard. None if the credentials of all of them have expired.
    """
    if not load.credentials.expired:
        return load.key
    for key, place in load.shards[index].loads.items():
        other = model.loads[key]
        if not other.credentials.expired and other.usable(place):
            return key
    return None


def credentials_refused(model: Model, shard: Shard, event: FetchFailed) -> None:
    """Note that a store refused the blamed loads' credentials; other loads' are tried next."""
    if event.kind is FailureKind.DENIED:
        fail_loads(model, shard, event.blamed, event.code, event.message)
        return
    model.totals.retries_by_reason[event.kind.value] += 1
    for key in event.blamed:
        if load := model.loads.get(key):
            _expire(model, load, event)


def _expire(model: Model, load: Load, event: FetchFailed) -> None:
    credentials, wait_s = load.credentials, model.rules.credentials_wait_s
    credentials.error = (event.code, event.message)
    if credentials.expired:
        return
    credentials.expired = True
    if event.at_s - credentials.renewed_s > wait_s:  # the last renewal was good for long
        credentials.since_s = event.at_s
    if load.prefetch or event.at_s - credentials.since_s >= wait_s:
        # The client of a prefetch may have left, so there is nobody to ask.
        _fail_waiting_shards(model, load)
    else:
        model.emit(AskCredentials(load.key))


def credentials_renewed(model: Model, load: Load, event: CredentialsRenewed) -> None:
    """Note that a load's client answered `AskCredentials` with the credentials that it has."""
    if not load.credentials.expired:
        return
    if event.newer:
        load.credentials.expired = False
        load.credentials.renewed_s = event.at_s
    else:
        _fail_waiting_shards(model, load)


def give_up_on_credentials(model: Model, at_s: float) -> None:
    """Fail the loads that have waited long enough for renewed credentials."""
    for load in model.loads.values():
        waited_s = at_s - load.credentials.since_s
        if load.credentials.expired and waited_s >= model.rules.credentials_wait_s:
            _fail_waiting_shards(model, load)


def _fail_waiting_shards(model: Model, load: Load) -> None:
    """Fail each shard of the load with a block that it waits for and no credentials can read."""
    for index, shard in enumerate(load.shards):
        waits = load.usable(index) and Phase.CLAIMED in load.phases[index]
        if waits and load_with_credentials(model, load, index) is None:
            fail_loads(model, shard, (load.key,), *load.credentials.error)
