"""Comparing what is in memory with files whose descriptors arrive anew, by a few pages of each.

A file system that was unmounted and made again can repeat every number that identifies a file. So
at least sixteen pages of each file, spread over it, the first and the last among them, are read
through the newcomer's descriptor and compared with the slab. The load goes on meanwhile and counts
only once that is done. Owns which loads wait for what. Runs in the daemon's loop; workers read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.layout import sample_starts
from streamer_client.contract.messages import Compared, Comparing
from streamerd.reading.backing import Backing
from streamerd.reading.sources import Pair
from streamerd.service import Service
from streamerd.state import events
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.workers import jobs

logger = logging.getLogger(__name__)

FILES_A_JOB: Final = 64
PROVEN_AGAIN_S: Final = 0.05
"""How often it is asked whether the blocks of an adopted shard are proven."""


class _Look(NamedTuple):
    """One file to compare, and how its shard stood when that began."""

    key: ShardKey
    pair: Pair
    backing: Backing
    slab: int
    releases: int
    starts: tuple[int, ...]


class Comparisons:
    """The loads that wait for comparisons.

    Args:
        service: whose shards.
        supersede: called with a shard whose file has other bytes, and the file's name.
    """

    def __init__(self, service: Service, supersede: Callable[[ShardKey, str], None]) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._supersede = supersede
        self._waits: Counter[LoadKey] = Counter()
        self._told: set[LoadKey] = set()
        """Loads that know that they wait."""
        self._refuted: set[LoadKey] = set()
        """Loads of which a shard was refused: `ShardFailed` is their last word."""

    def begin(self, load: LoadKey, files: Sequence[tuple[ShardKey, Pair]]) -> None:
        """Compare what is in memory of these files now; before the load is answered."""
        proven = [(key, pair) for key, pair in files if not self._is_unproven(key)]
        looks = [look for key, pair in proven if (look := self._look_at(key, pair)) is not None]
        for first in range(0, len(looks), FILES_A_JOB):
            self._submit(load, looks[first : first + FILES_A_JOB])
        if later := [(key, pair.retain()) for key, pair in files if self._is_unproven(key)]:
            self._waits[load] += 1
            self._begin_later(load, later)

    def _begin_later(self, load: LoadKey, files: Sequence[tuple[ShardKey, Pair]]) -> None:
        """Blocks that were adopted count as they are once their checksums were taken again."""
        if any(self._is_unproven(key) for key, _ in files):
            self._loop.call_later(PROVEN_AGAIN_S, self._begin_later, load, files)
            return
        self.begin(load, files)
        for _, pair in files:
            pair.release()
        self.let_go(load)

    def _is_unproven(self, key: ShardKey) -> bool:
        shard = self._service.model.shards.get(key)
        return shard is not None and BlockState.UNPROVEN in shard.states

    def waits(self, load: LoadKey) -> bool:
        """Whether a load waits; from now on it is told when it does not any more."""
        if not self._waits[load]:
            return False
        self._told.add(load)
        return True

    def hold(self, load: LoadKey) -> None:
        """Something else is looked at that this load's bytes depend on."""
        self._waits[load] += 1
        if load not in self._told and load in self._service.model.loads:
            self._told.add(load)
            self._service.control.send(load.owner, Comparing(load.number))

    def let_go(self, load: LoadKey) -> None:
        """One thing that the load waited for is done."""
        self._waits[load] -= 1
        if self._waits[load] > 0:
            return
        del self._waits[load]
        if load in self._told:
            self._told.discard(load)
            if load not in self._refuted:
                self._service.control.send(load.owner, Compared(load.number))
        self._refuted.discard(load)

    def refute(self, loads: Iterable[LoadKey]) -> None:
        """These loads are about to hear that a shard of theirs has other bytes: that is the end."""
        self._refuted.update(load for load in loads if self._waits[load] > 0)

    def refuse_all(self, loads: Sequence[LoadKey], key: ShardKey, error: StreamerError) -> None:
        """What these loads have of a shard could not be compared."""
        for load in loads:
            self._refuse(load, key, error.code, str(error))

    # --- one job --------------------------------------------------------------------------------

    def _look_at(self, key: ShardKey, pair: Pair) -> _Look | None:
        shard = self._service.model.shards.get(key)
        backing = self._service.backings.get(key)
        if shard is None or backing is None or not shard.resident_bytes:
            return None
        starts = sample_starts(shard.size_bytes)
        if not shard.all_resident(0, shard.blocks):
            resident, states = BlockState.RESIDENT, shard.states
            starts = tuple(at for at in starts if states[at // shard.block_bytes] == resident)
        if not starts:
            return None
        return _Look(key, pair, backing, backing.slab, backing.releases, starts)

    def _submit(self, load: LoadKey, looks: list[_Look]) -> None:
        self._waits[load] += 1
        for look in looks:
            look.pair.retain()
        self._send(load, looks)

    def _send(self, load: LoadKey, looks: list[_Look]) -> None:
        fleet = self._service.fleet
        descriptors: list[int] = []
        for look in looks:
            descriptors += (look.backing.slab_fd, look.pair.plain)
        files = tuple(jobs.CompareFile(look.starts, look.pair.stored.size_bytes) for look in looks)
        job = jobs.Compare(fleet.next_job(), files)

        def answered(answer: jobs.Answer | None) -> None:
            if answer is None:  # the worker died: another looks at what is in memory by then
                self.begin(load, [(look.key, look.pair) for look in looks])
            else:
                self._judge(load, looks, answer)
            for look in looks:
                look.pair.release()
            self.let_go(load)

        fleet.submit(job, answered, tuple(descriptors), self._service.settings.source_wait_s)

    def _judge(self, load: LoadKey, looks: list[_Look], answer: jobs.Answer) -> None:
        match answer:
            case jobs.Compared(_, differing, failed):
                for number in sorted({index for index, _ in differing}):
                    self._differs(load, looks[number])
                for one in failed:
                    self._refuse(load, looks[one.file].key, one.code, one.message)
            case jobs.JobFailed(_, code, message) as failed_job:
                if not failed_job.hung and not all(map(self._is_undisturbed, looks)):
                    self.begin(load, [(look.key, look.pair) for look in looks])
                    return  # a slab was given up before a worker had it
                for look in looks:
                    self._refuse(load, look.key, code, message)

    def _differs(self, load: LoadKey, look: _Look) -> None:
        if self._is_undisturbed(look):
            self._refuted.add(load)
            self._supersede(look.key, look.pair.stored.uri)
        elif (again := self._look_at(look.key, look.pair)) is not None:
            # Blocks were given up while they were looked at.
            self._submit(load, [again])

    def _is_undisturbed(self, look: _Look) -> bool:
        """Whether nothing of the shard was given up since the look began."""
        same_slab = (look.backing.slab, look.backing.releases) == (look.slab, look.releases)
        return same_slab and self._service.backings.get(look.key) is look.backing

    def _refuse(self, load: LoadKey, key: ShardKey, code: str, message: str) -> None:
        self._refuted.add(load)
        service = self._service
        service.post(events.ShardRefused(service.now_s, load, key, code, message))
