"""Finds out whether a file still has the bytes that are in memory, after its ctime has changed.

The time of last change of an inode (ctime) moves with each write, but also with chmod, chown, link,
unlink and rename, which change no byte. So another ctime raises a doubt and proves nothing. Every
resident block of the shard is then read again, through the descriptor that showed the other ctime.
Its checksum is compared with the one that was taken when the block was first read. This module owns
the shards in doubt. Runs in the daemon's loop; workers read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from streamer_client.contract.errors import SourceChanged, StreamerError, error_from_code
from streamer_client.contract.layout import block_span
from streamerd.answering.files.comparisons import Comparisons
from streamerd.reading.backing import Backing
from streamerd.reading.sources import Pair, Sources
from streamerd.reading.totals import ReadTotals
from streamerd.service.views import IN_SLAB, ModelView
from streamerd.settings.config import Settings
from streamerd.state.events import ShardKey
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers

logger = logging.getLogger(__name__)

MOST_TRIES: Final = 3
"""How often a file is read again if its ctime changes during each reading."""

Resolved = Callable[[StreamerError | None], None]
"""Called once with None if the doubt was resolved, whatever the result, else with the error."""


class _Doubt:
    """One shard whose blocks are read again."""

    def __init__(self, pair: Pair, ctime_ns: int | None) -> None:
        self.pair = pair.retain()
        self.ctime_ns = pair.ctime_ns if ctime_ns is None else ctime_ns
        self.left: deque[int] = deque()
        """Blocks that must still be read."""
        self.tries = 0
        self.under_way = 0
        self.ended = False
        self.waiting: list[Resolved] = []


class Doubts:
    """The shards in doubt.

    Args:
        model: the shards.
        backings: the backings of the shards.
        sources: the descriptors that shards are read through.
        workers: the workers that read.
        totals: where reads are counted.
        settings: block size, and the time limit for file systems.
        comparisons: has loads wait for the result, and ends them if the bytes are others.
    """

    def __init__(
        self,
        model: ModelView,
        backings: Mapping[ShardKey, Backing],
        sources: Sources,
        workers: Workers,
        totals: ReadTotals,
        settings: Settings,
        comparisons: Comparisons,
    ) -> None:
        self._model = model
        self._backings = backings
        self._sources = sources
        self._workers = workers
        self._totals = totals
        self._block_bytes = settings.block_bytes
        self._wait_s = settings.source_wait_s
        self._comparisons = comparisons
        self._doubts: dict[ShardKey, _Doubt] = {}

    def about(self, key: ShardKey, pair: Pair) -> bool:
        """Whether it is in doubt that the file of this pair has the bytes in memory."""
        backing = self._backings.get(key)
        shard = self._model.shards.get(key)
        if backing is None or shard is None:
            return False
        if key in self._doubts:
            return True
        return backing.ctime_ns != pair.ctime_ns and any(shard.states)

    def resolve(
        self, key: ShardKey, pair: Pair, then: Resolved, ctime_ns: int | None = None
    ) -> None:
        """Read a shard's resident blocks again; calls made meanwhile share the one reading.

        Args:
            key: the shard.
            pair: the descriptors to read the shard through.
            then: called at the end.
            ctime_ns: the ctime that raised the doubt; None for that of the pair.
        """
        doubt = self._doubts.get(key)
        if doubt is not None:
            doubt.waiting.append(then)
            return
        doubt = self._doubts[key] = _Doubt(pair, ctime_ns)
        doubt.waiting.append(then)
        logger.info("event=file_touched_reading_again uri=%s", pair.stored.uri)
        self._begin(key, doubt)

    def is_outdated(self, key: ShardKey, ctime_ns: int, attempt: int) -> bool:
        """Whether to read a block again that was read while the file had this ctime.

        A read that was under way while the file was touched may have old bytes, so the block is
        read once more. If the ctime is then still another than before, the shard's other blocks are
        in doubt.
        """
        doubt = self._doubts.get(key)
        current_ns = self._backings[key].ctime_ns if doubt is None else doubt.ctime_ns
        if ctime_ns == current_ns:
            return False
        if attempt == 1:
            return True
        if doubt is not None:
            self._touched_again(key, doubt, ctime_ns)
        elif (pair := self._sources.reading(key)) is not None:
            self._touched(key, pair, ctime_ns)
        return False

    def _touched(self, key: ShardKey, pair: Pair, ctime_ns: int) -> None:
        """Resolve the doubt about a file that was touched while loads read it.

        The loads go on, and only their end waits for the result.
        """
        shard = self._model.shards.get(key)
        loads = tuple(shard.loads) if shard is not None else ()
        for load in loads:
            self._comparisons.begin_wait(load)

        def resolved(error: StreamerError | None) -> None:
            if error is not None:
                self._comparisons.refuse_all(loads, key, error)
            for load in loads:
                self._comparisons.end_wait(load)

        self.resolve(key, pair, resolved, ctime_ns)

    def _begin(self, key: ShardKey, doubt: _Doubt) -> None:
        shard = self._model.shards.get(key)
        doubt.tries += 1
        states = shard.states if shard is not None else b""
        doubt.left.clear()
        doubt.left.extend(block for block, state in enumerate(states) if state in IN_SLAB)
        self._go_on(key, doubt)

    def _go_on(self, key: ShardKey, doubt: _Doubt) -> None:
        at_once = max(1, self._workers.slots)
        while not doubt.ended and doubt.left and doubt.under_way < at_once:
            self._look(key, doubt, doubt.left.popleft())
        if not doubt.ended and not doubt.under_way and not doubt.left:
            self._equal(key, doubt)

    def _look(self, key: ShardKey, doubt: _Doubt, block: int) -> None:
        backing = self._backings.get(key)
        if backing is None or not self._is_in_slab(key, block):
            return
        start, stop = block_span(block, backing.stored.size_bytes, self._block_bytes)
        number, stored = self._workers.next_job(), doubt.pair.stored
        job = jobs.Reread(number, stored, doubt.pair.handle, {}, start, stop)
        doubt.under_way += 1

        def answered(answer: jobs.Answer | None) -> None:
            doubt.under_way -= 1
            if not doubt.ended:
                self._judge(key, doubt, block, answer)
            if not doubt.ended:
                self._go_on(key, doubt)

        self._workers.submit(job, answered, limit_s=self._wait_s)

    def _judge(self, key: ShardKey, doubt: _Doubt, block: int, answer: jobs.Answer | None) -> None:
        match answer:
            case None:
                doubt.left.append(block)
            case jobs.Checksummed(_, checksum, ctime_ns):
                self._totals.proof_bytes += self._size_of(key, block)
                if ctime_ns != doubt.ctime_ns:
                    self._touched_again(key, doubt, ctime_ns)
                elif self._differs(key, block, checksum):
                    self._comparisons.supersede(key, doubt.pair.stored.uri)
                    self._end(key, doubt, None)
            case jobs.JobFailed(_, code, message):
                self._end(key, doubt, error_from_code(code, message))
            case _:
                self._end(key, doubt, StreamerError(f"{key.uri}: a worker answered nonsense"))

    def _size_of(self, key: ShardKey, block: int) -> int:
        shard = self._model.shards.get(key)
        return shard.bytes_of(block, block + 1) if shard is not None else 0

    def _differs(self, key: ShardKey, block: int, checksum: int) -> bool:
        backing = self._backings.get(key)
        if backing is None or not self._is_in_slab(key, block):
            return False  # the block was released meanwhile, and is read anew when it is wanted
        return backing.checksums[block] != checksum

    def _touched_again(self, key: ShardKey, doubt: _Doubt, ctime_ns: int) -> None:
        if doubt.tries >= MOST_TRIES:
            name = doubt.pair.stored.uri
            text = f"{name}: it is changed while it is looked at; load it when nothing writes to it"
            self._end(key, doubt, SourceChanged(text))
            return
        doubt.ctime_ns = ctime_ns
        self._begin(key, doubt)

    def _equal(self, key: ShardKey, doubt: _Doubt) -> None:
        if (backing := self._backings.get(key)) is not None:
            backing.ctime_ns = doubt.ctime_ns
            # The pair may have an older ctime, from when the file was examined. That must raise no
            # doubt again.
            doubt.pair.ctime_ns = doubt.ctime_ns
        self._end(key, doubt, None)

    def _end(self, key: ShardKey, doubt: _Doubt, error: StreamerError | None) -> None:
        doubt.ended = True
        del self._doubts[key]
        doubt.pair.release()
        for then in doubt.waiting:
            then(error)

    def _is_in_slab(self, key: ShardKey, block: int) -> bool:
        shard = self._model.shards.get(key)
        return shard is not None and shard.states[block] in IN_SLAB
