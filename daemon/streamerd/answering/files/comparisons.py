"""Compares resident blocks with files whose descriptors arrive anew, by a few pages of each file.

A file system that was unmounted and made again can repeat every number that identifies a file. So
at least sixteen pages of each file, spread over it, the first and the last among them, are read
through the new descriptor and compared with the slab. The load goes on meanwhile, but its client
may use what it loaded only once the comparison is done. This module counts the comparisons that
each load waits for, and acts when a file has other bytes. Runs in the daemon's loop; workers read.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.layout import sample_starts
from streamer_client.contract.messages import Compared, Comparing
from streamerd.reading.backing import Backing
from streamerd.reading.editions import Editions
from streamerd.reading.sources import Pair
from streamerd.service.answers import Send
from streamerd.service.views import Events, ModelView
from streamerd.state import events
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers

logger = logging.getLogger(__name__)

FILES_A_JOB: Final = 64
PROVEN_AGAIN_S: Final = 0.05
"""Seconds between two checks whether the blocks of an adopted shard are proven."""
_SUPERSEDED: Final = (
    "its file was rewritten in place while it was in use; load it again from the start, and "
    "replace files by renaming new ones over them"
)


class _Look(NamedTuple):
    """One file to compare, and the state of its shard when the comparison began."""

    key: ShardKey
    pair: Pair
    backing: Backing
    slab: int
    releases: int
    starts: tuple[int, ...]


class Comparisons:
    """The loads that wait for comparisons.

    Args:
        model: the shards.
        events: takes the events that a shard has other bytes, or could not be compared.
        backings: the backings of the shards.
        editions: tells which content of a file is the newest.
        workers: the workers that read.
        send: sends messages to clients.
        wait_s: seconds that a file system may take to answer.
    """

    def __init__(
        self,
        model: ModelView,
        events: Events,
        backings: Mapping[ShardKey, Backing],
        editions: Editions,
        workers: Workers,
        send: Send,
        wait_s: float,
    ) -> None:
        self._model = model
        self._events = events
        self._backings = backings
        self._editions = editions
        self._workers = workers
        self._send_message = send
        self._wait_s = wait_s
        self._loop = asyncio.get_running_loop()
        self._waits: Counter[LoadKey] = Counter()
        """Number of comparisons and other checks that each load waits for."""
        self._told: set[LoadKey] = set()
        """Loads whose clients were told that their load waits."""
        self._refuted: set[LoadKey] = set()
        """Loads with a refused shard. `ShardFailed` is the last message that their clients get."""

    def begin(self, load: LoadKey, files: Sequence[tuple[ShardKey, Pair]]) -> None:
        """Compare the resident blocks of these files; called before the load is answered."""
        looks: list[_Look] = []
        later: list[tuple[ShardKey, Pair]] = []
        for key, pair in files:
            if self._is_unproven(key):
                later.append((key, pair.retain()))
            elif (look := self._look_at(key, pair)) is not None:
                looks.append(look)
        for first in range(0, len(looks), FILES_A_JOB):
            self._submit(load, looks[first : first + FILES_A_JOB])
        if later:
            self._waits[load] += 1
            self._begin_later(load, later)

    def _begin_later(self, load: LoadKey, files: Sequence[tuple[ShardKey, Pair]]) -> None:
        """Compare adopted shards once workers have proven their blocks by their checksums."""
        if any(self._is_unproven(key) for key, _ in files):
            self._loop.call_later(PROVEN_AGAIN_S, self._begin_later, load, files)
            return
        self.begin(load, files)
        for _, pair in files:
            pair.release()
        self.end_wait(load)

    def _is_unproven(self, key: ShardKey) -> bool:
        shard = self._model.shards.get(key)
        return shard is not None and BlockState.UNPROVEN in shard.states

    def waits(self, load: LoadKey) -> bool:
        """Whether a load waits; if so, its client will be told when the wait is over."""
        if not self._waits[load]:
            return False
        self._told.add(load)
        return True

    def begin_wait(self, load: LoadKey) -> None:
        """Have a load wait for another check on which the truth of its bytes depends."""
        self._waits[load] += 1
        if load not in self._told and load in self._model.loads:
            self._told.add(load)
            self._send_message(load.owner, Comparing(load.number))

    def end_wait(self, load: LoadKey) -> None:
        """Note that one check is done that a load waited for."""
        self._waits[load] -= 1
        if self._waits[load] > 0:
            return
        del self._waits[load]
        if load in self._told:
            self._told.discard(load)
            if load not in self._refuted:
                self._send_message(load.owner, Compared(load.number))
        self._refuted.discard(load)

    def supersede(self, key: ShardKey, name: str) -> None:
        """End the loads of a file that has other bytes now, and let later loads read it anew."""
        logger.warning("event=file_rewritten_in_place uri=%s", name)
        self._editions.supersede(key)
        shard = self._model.shards.get(key)
        loads = shard.loads if shard is not None else ()
        self._refuted.update(load for load in loads if self._waits[load] > 0)
        told = f"{name}: {_SUPERSEDED}"
        self._events.post(events.ShardSuperseded(self._events.now_s, key, told))

    def refuse_all(self, loads: Sequence[LoadKey], key: ShardKey, error: StreamerError) -> None:
        """Fail a shard for these loads, since it could not be compared with its file."""
        for load in loads:
            self._refuse(load, key, error.code, str(error))

    # --- one job --------------------------------------------------------------------------------

    def _look_at(self, key: ShardKey, pair: Pair) -> _Look | None:
        shard = self._model.shards.get(key)
        backing = self._backings.get(key)
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
        descriptors: list[int] = []
        for look in looks:
            descriptors += (look.backing.slab_fd, look.pair.plain)
        files = tuple(jobs.CompareFile(look.starts, look.pair.stored.size_bytes) for look in looks)
        job = jobs.Compare(self._workers.next_job(), files)

        def answered(answer: jobs.Answer | None) -> None:
            if answer is None:  # the worker died; a new job compares what is resident then
                self.begin(load, [(look.key, look.pair) for look in looks])
            else:
                self._judge(load, looks, answer)
            for look in looks:
                look.pair.release()
            self.end_wait(load)

        self._workers.submit(job, answered, tuple(descriptors), self._wait_s)

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
                    return  # a slab was removed before the worker had it
                for look in looks:
                    self._refuse(load, look.key, code, message)

    def _differs(self, load: LoadKey, look: _Look) -> None:
        if self._is_undisturbed(look):
            self._refuted.add(load)
            self.supersede(look.key, look.pair.stored.uri)
        elif (again := self._look_at(look.key, look.pair)) is not None:
            # Blocks were released while they were compared.
            self._submit(load, [again])

    def _is_undisturbed(self, look: _Look) -> bool:
        """Whether no block of the shard was released since the comparison began."""
        same_slab = (look.backing.slab, look.backing.releases) == (look.slab, look.releases)
        return same_slab and self._backings.get(look.key) is look.backing

    def _refuse(self, load: LoadKey, key: ShardKey, code: str, message: str) -> None:
        self._refuted.add(load)
        self._events.post(events.ShardRefused(self._events.now_s, load, key, code, message))
