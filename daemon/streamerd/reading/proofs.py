"""Proves adopted blocks: has workers take their checksums again, a few at a time.

This module owns the queue of blocks to prove. It runs in the daemon's loop; workers read the
blocks. It uses only a part of the workers' threads at once, so that other shards can be read
meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping

from streamer_client.contract.layout import block_span
from streamerd.reading.backing import Backing
from streamerd.settings.config import Settings
from streamerd.state.events import AnyEvent, BlockProven, BlockRefuted, ShardKey
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers

logger = logging.getLogger(__name__)


class Proofs:
    """Carries `ProveBlocks` out.

    Args:
        settings: block size.
        workers: the workers that read.
        backings: the backings of the core's shards.
        post: gives an event to the core.
    """

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        backings: Mapping[ShardKey, Backing],
        post: Callable[[AnyEvent], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._block_bytes = settings.block_bytes
        self._workers = workers
        self._backings = backings
        self._post = post
        self._queue: deque[tuple[ShardKey, int]] = deque()
        self._under_way = 0

    def prove(self, shard: ShardKey, start: int, stop: int) -> None:
        """Queue blocks `start` to `stop`."""
        self._queue.extend((shard, block) for block in range(start, stop))
        self._fill()

    def _fill(self) -> None:
        while self._queue and self._under_way < max(1, self._workers.slots // 2):
            self._submit(*self._queue.popleft())

    def _submit(self, shard: ShardKey, block: int) -> None:
        self._under_way += 1
        backing = self._backings[shard]
        start, stop = block_span(block, backing.stored.size_bytes, self._block_bytes)
        job = jobs.Checksum(self._workers.next_job(), backing.slab, start, stop)

        def answered(answer: jobs.Answer | None) -> None:
            self._under_way -= 1
            if answer is None:  # the worker died, so the block is tried again
                self._queue.appendleft((shard, block))
            else:
                self._judge(shard, block, answer)
            self._fill()

        self._workers.submit(job, answered)

    def _judge(self, shard: ShardKey, block: int, answer: jobs.Answer) -> None:
        at_s = self._loop.time()
        expected = self._backings[shard].checksums[block]
        if isinstance(answer, jobs.Checksummed) and answer.checksum == expected:
            self._post(BlockProven(at_s, shard, block))
            return
        why = answer.message if isinstance(answer, jobs.JobFailed) else "other bytes than were read"
        uri = self._backings[shard].stored.uri
        logger.warning("event=adopted_block_refused uri=%s block=%d reason=%r", uri, block, why)
        self._post(BlockRefuted(at_s, shard, block))
