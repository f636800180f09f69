"""Knows which loads have shown that a store lets them read an object that was only listed.

Listing needs another right than reading, and objects under one prefix may have different readers.
So a load gets an object that was only listed without a further request to the store in two cases
alone:

- no other load has or reads the object, so that this load's own credentials read all its bytes; or
- the same credentials have opened the object before, in a load that still lives.

In a fleet, other nodes send bytes too, which shows nothing about this load's credentials. Then only
the second case is left.

In every other case the store is asked about the object with the load's credentials first. If a load
with other credentials has the object already, that load must have shown its right as well, since
from then on each load gets bytes that the other's credentials read. `Rights` remembers which load
has shown which right; `objects.py` asks the store. Runs in the daemon's loop.
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
    """The state of a load when it was opened, and the shards that it has not shown a right to."""

    digest: str
    """Digest of the environment that the load was opened with. A renewed environment does not show
    a right for other loads."""
    shards: frozenset[ShardKey]
    unshown: set[ShardKey]
    """Shards of the load to which its credentials have not shown a right yet."""


@dataclass(frozen=True, slots=True)
class Owed:
    """A load that must show its right to some shards before another load may share them."""

    load: LoadKey
    shards: tuple[ShardKey, ...]


class Rights:
    """The loads of objects, and the rights that their credentials have shown.

    Args:
        model: the shards that the core has, and which of their blocks are resident.
        environments: tells which loads live, and their credentials.
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
        """Note a load that is being given to the core; call this after `Environments.put`."""
        self._forget_the_ended()
        digest = digest_of(environment)
        same = [each for each in self._loads.values() if each.digest == digest]
        shown = self._keys(each.shards - each.unshown for each in same)
        self._loads[load] = _Opened(digest, frozenset(shards), set(only_listed) - shown)

    def to_look_at(
        self, environment: Mapping[str, str], only_listed: Collection[ShardKey]
    ) -> list[ShardKey]:
        """The shards that were only listed, and that a new load must look at."""
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
        """Note that the store let the load's credentials read the shards that the load owed.

        This counts for all loads that have the same credentials.
        """
        digest = self._loads[owed.load].digest if owed.load in self._loads else None
        for each in self._loads.values():
            if each.digest == digest:
                each.unshown -= set(owed.shards)

    def _was_read(self, key: ShardKey) -> bool:
        """Whether a block of the shard is resident.

        A load whose right was not shown had the shard alone, so its own credentials read that
        block.
        """
        shard = self._model.shards.get(key)
        return shard is not None and shard.resident_bytes > 0

    def _forget_the_ended(self) -> None:
        gone = [load for load in self._loads if load not in self._environments]
        for load in gone:
            del self._loads[load]

    @staticmethod
    def _keys(groups: Iterable[frozenset[ShardKey]]) -> set[ShardKey]:
        return set().union(*groups)
