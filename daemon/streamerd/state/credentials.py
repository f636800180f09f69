"""Whose credentials a fetch uses, and what happens when they are refused.

All who lease a shard have shown that they may read it, so any of them can lend its credentials. Bad
ones harm nobody but the load they came with: the others' serve, also for that load. Who has none
left that pass waits for renewed ones, and fails when they do not come.
"""

from __future__ import annotations

from streamerd.state.commands import AskCredentials
from streamerd.state.events import CredentialsRenewed, FailureKind, FetchFailed, LoadKey
from streamerd.state.failing import fail_loads
from streamerd.state.load import Load, Phase
from streamerd.state.model import Model
from streamerd.state.shard import Shard


def lender(model: Model, load: Load, index: int) -> LoadKey | None:
    """Who lends credentials to a fetch for `load` from its shard `index`; None: nobody can now."""
    if not load.lent.expired:
        return load.key
    for key, place in load.shards[index].loads.items():
        other = model.loads[key]
        if not other.lent.expired and other.usable(place):
            return key
    return None


def refused(model: Model, shard: Shard, event: FetchFailed) -> None:
    """A store said no to credentials; the block is read again with whatever others there are."""
    if event.kind is FailureKind.DENIED:
        fail_loads(model, shard, event.blamed, event.code, event.message)
        return
    model.totals.retries += 1
    for key in event.blamed:
        if load := model.loads.get(key):
            _expire(model, load, event)


def _expire(model: Model, load: Load, event: FetchFailed) -> None:
    lent, wait_s = load.lent, model.rules.credentials_wait_s
    lent.error = (event.code, event.message)
    if lent.expired:
        return
    lent.expired = True
    if event.at_s - lent.renewed_s > wait_s:  # the last ones passed for a good while
        lent.since_s = event.at_s
    if load.prefetch or event.at_s - lent.since_s >= wait_s:
        # Whoever asked for a prefetch is not there to be asked.
        _give_up(model, load)
    else:
        model.emit(AskCredentials(load.key))


def renewed(model: Model, load: Load, event: CredentialsRenewed) -> None:
    """A load's client sent what it has."""
    if not load.lent.expired:
        return
    if event.newer:
        load.lent.expired = False
        load.lent.renewed_s = event.at_s
    else:
        _give_up(model, load)


def tick(model: Model, at_s: float) -> None:
    """Fail what has waited long enough for credentials."""
    for load in model.loads.values():
        waited_s = at_s - load.lent.since_s
        if load.lent.expired and waited_s >= model.rules.credentials_wait_s:
            _give_up(model, load)


def _give_up(model: Model, load: Load) -> None:
    """Fail the shards of which the load waits for blocks that nobody can read for it."""
    for index, shard in enumerate(load.shards):
        waits = load.usable(index) and Phase.CLAIMED in load.phases[index]
        if waits and lender(model, load, index) is None:
            fail_loads(model, shard, (load.key,), *load.lent.error)
