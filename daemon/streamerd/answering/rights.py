"""Knows which loads have shown that a store lets them read an object that was only listed.

A listing needs another right than reading, and objects under one prefix may have different readers.
So an object that was only listed is given to a load without a request for it in two cases alone:

- nobody has it or reads it, so that all its bytes come by this load's own credentials; or
- the same credentials have opened it before, in a load that still lives.

Where there is a fleet, other nodes send bytes too, which shows nothing about this load's
credentials: then only the second case is left.

In every other case the object is looked at with the load's credentials first. When a load with
other credentials joins, the former ones must have shown their right as well, since from then on
each gets what the other's credentials read. `Rights` owns who has shown what; the looking is done
by `objects.py`. Runs in the daemon's loop.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from streamerd.service.views import ModelView
from streamerd.state.events import LoadKey, ShardKey
from streamerd.workers.in_daemon.environments import Environments
from streamerd.workers.jobs import digest_of


@dataclass(slots=True)
class _Opened:
    """A load, as it was when it was opened."""

    digest: str
    """The digest of the environment that it was opened with. A renewed one vouches for nobody."""
    shards: frozenset[ShardKey]
    unshown: set[ShardKey]
    """Those of its shards for which its credentials have shown nothing yet."""


@dataclass(frozen=True, slots=True)
class Owed:
    """A load that has to show its right to some shards before another may join it."""

    load: LoadKey
    shards: tuple[ShardKey, ...]


class Rights:
    """The loads of objects, and what their credentials have shown.

    Args:
        model: the shards that the core has, and what of them is resident.
        environments: which loads live, and with which credentials.
        other_nodes: whether bytes may come from other nodes.
    """

    def __init__(
        self, model: ModelView, environments: Environments, *, other_nodes: bool = False
    ) -> None:
        self._other_nodes = other_nodes
        self._model = model
        self._environments = environments
        self._loads: dict[LoadKey, _Opened] = {}

    def opened(
        self,
        load: LoadKey,
        environment: Mapping[str, str],
        shards: Iterable[ShardKey],
        only_listed: Iterable[ShardKey],
    ) -> None:
        """Note a load that is being given to the core, after its environment was put."""
        self._forget_the_ended()
        digest = digest_of(environment)
        same = [each for each in self._loads.values() if each.digest == digest]
        shown = self._keys(each.shards - each.unshown for each in same)
        self._loads[load] = _Opened(digest, frozenset(shards), set(only_listed) - shown)

    def to_look_at(
        self, environment: Mapping[str, str], only_listed: Collection[ShardKey]
    ) -> list[ShardKey]:
        """The shards, of those that were only listed, which a new load must look at."""
        self._forget_the_ended()
        digest = digest_of(environment)
        vouched = self._keys(
            each.shards
            for load, each in self._loads.items()
            if each.digest == digest == digest_of(self._environments.of(load))
        )
        known = self._keys(each.shards for each in self._loads.values())
        return [
            key
            for key in only_listed
            if key not in vouched
            and (self._other_nodes or key in known or key in self._model.shards)
        ]

    def owed(self, environment: Mapping[str, str], shards: Collection[ShardKey]) -> Owed | None:
        """A load with other credentials that must show its right to some of these shards.

        None where no such load is left.
        """
        self._forget_the_ended()
        digest, joined = digest_of(environment), set(shards)
        for load, each in self._loads.items():
            keys = each.unshown & joined if each.digest != digest else set()
            read = {key for key in keys if self._was_read(key)}
            each.unshown -= read
            if keys - read:
                return Owed(load, tuple(sorted(keys - read)))
        return None

    def shown(self, owed: Owed) -> None:
        """The store let the load's credentials read what it owed, and thus all that have them."""
        digest = self._loads[owed.load].digest if owed.load in self._loads else None
        for each in self._loads.values():
            if each.digest == digest:
                each.unshown -= set(owed.shards)

    def _was_read(self, key: ShardKey) -> bool:
        """Whether a byte of it is resident: credentials that had shown nothing have read it."""
        shard = self._model.shards.get(key)
        return shard is not None and shard.resident_bytes > 0

    def _forget_the_ended(self) -> None:
        gone = [load for load in self._loads if load not in self._environments]
        for load in gone:
            del self._loads[load]

    @staticmethod
    def _keys(groups: Iterable[frozenset[ShardKey]]) -> set[ShardKey]:
        return set().union(*groups)
