"""Proving adopted blocks: their checksums are taken again, a few at a time.

Owns the queue of blocks to prove. Runs in the daemon's loop; workers do the reading. Only a part
of their threads is used at once, so that loads of other shards are read meanwhile.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from streamerd.state.events import ShardKey
from streamerd.workers import jobs
from streamerd.workers.supervisor import Fleet

logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a block lies, and what its bytes must sum up to."""

    slab: str
    start: int
    stop: int
    checksum: int


class Proofs:
    """Takes blocks and tells of each whether it is what was read.

    Args:
        fleet: who does the reading.
        find: where a block lies.
        tell: called with shard, block and the verdict.
    """

    def __init__(
        self,
        fleet: Fleet,
        find: Callable[[ShardKey, int], Place],
        tell: Callable[[ShardKey, int, bool], None],
    ) -> None:
        self._fleet = fleet
        self._find = find
        self._tell = tell
        self._queue: deque[tuple[ShardKey, int]] = deque()
        self._under_way = 0

    def prove(self, shard: ShardKey, start: int, stop: int) -> None:
        """Queue blocks `start` to `stop`."""
        self._queue.extend((shard, block) for block in range(start, stop))
        self._fill()

    def _fill(self) -> None:
        while self._queue and self._under_way < max(1, self._fleet.slots // 2):
            self._submit(*self._queue.popleft())

    def _submit(self, shard: ShardKey, block: int) -> None:
        self._under_way += 1
        place = self._find(shard, block)
        job = jobs.Checksum(self._fleet.next_job(), place.slab, place.start, place.stop)

        def answered(answer: jobs.Answer | None) -> None:
            self._under_way -= 1
            if answer is None:
                self._queue.appendleft((shard, block))
            else:
                self._judge(shard, block, place, answer)
            self._fill()

        self._fleet.submit(job, answered)

    def _judge(self, shard: ShardKey, block: int, place: Place, answer: jobs.Answer) -> None:
        right = isinstance(answer, jobs.Checksummed) and answer.checksum == place.checksum
        if not right:
            why = (
                answer.message if isinstance(answer, jobs.Failed) else "other bytes than were read"
            )
            logger.warning("adopted block refused uri=%s block=%d %s", shard.uri, block, why)
        self._tell(shard, block, right)
