"""Whether what is in memory is still what a file holds, once anything was done to the file.

The time of last change of an inode (ctime) moves with each write, but also with chmod, chown, link,
unlink and rename, which change no byte. So it raises a doubt and proves nothing: every resident
block of the shard is read again, through the descriptor of whoever came with the doubt, and its
checksum compared with the one that was taken when it was first read. Runs in the daemon's loop;
workers read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from streamer_client.contract.errors import SourceChanged, StreamerError, error_from_code
from streamer_client.contract.layout import block_span
from streamerd.reading.sources import Pair
from streamerd.service import Service
from streamerd.state import events
from streamerd.state.events import ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.workers import jobs

logger = logging.getLogger(__name__)

MOST_TRIES: Final = 3
"""A file that is touched again while it is looked at is looked at again so often."""
_SUPERSEDED: Final = (
    "its file was rewritten in place while it was in use; load it again from the start, and "
    "replace files by renaming new ones over them"
)

_IN_SLAB: Final = (BlockState.RESIDENT, BlockState.UNPROVEN)

Resolved = Callable[[StreamerError | None], None]
"""Called with None once the doubt is resolved, whichever way, else with why it could not be."""


class _Doubt:
    """One shard that is looked at."""

    def __init__(self, pair: Pair, ctime_ns: int | None) -> None:
        self.pair = pair.retain()
        self.ctime_ns = pair.ctime_ns if ctime_ns is None else ctime_ns
        self.left: deque[int] = deque()
        self.tries = 0
        self.under_way = 0
        self.ended = False
        self.waiting: list[Resolved] = []


class Doubts:
    """The shards that are looked at now.

    Args:
        service: whose shards.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._doubts: dict[ShardKey, _Doubt] = {}
        self.touched: Callable[[ShardKey, Pair, int], None] = lambda *_told: None
        """Called with shard, pair and ctime where a file was touched while a load reads it."""
        self.superseded: Callable[[ShardKey], None] = lambda _key: None
        """Called with a shard whose file has other bytes now."""

    def about(self, key: ShardKey, pair: Pair) -> bool:
        """Whether it is in doubt that the file of this pair is what is in memory."""
        backing = self._service.backings.get(key)
        shard = self._service.model.shards.get(key)
        if backing is None or shard is None:
            return False
        if key in self._doubts:
            return True
        return backing.ctime_ns != pair.ctime_ns and any(shard.states)

    def resolve(
        self, key: ShardKey, pair: Pair, then: Resolved, ctime_ns: int | None = None
    ) -> None:
        """Look at a shard through a pair, with whoever else waits for that.

        Args:
            key: the shard.
            pair: what to read it through.
            then: called at the end.
            ctime_ns: the time of the change, where it is not the pair's.
        """
        doubt = self._doubts.get(key)
        if doubt is not None:
            doubt.waiting.append(then)
            return
        doubt = self._doubts[key] = _Doubt(pair, ctime_ns)
        doubt.waiting.append(then)
        logger.info("file was touched, looking at it again uri=%s", pair.stored.uri)
        self._begin(key, doubt)

    def is_outdated(self, key: ShardKey, ctime_ns: int, attempt: int) -> bool:
        """Whether to read a block again that was read while the file had this ctime.

        A read that was under way while something was done to the file may have old bytes: read
        again, it is what the file holds now. Then everything that was read before is in doubt.
        """
        doubt = self._doubts.get(key)
        current_ns = self._service.backings[key].ctime_ns if doubt is None else doubt.ctime_ns
        if ctime_ns == current_ns:
            return False
        if attempt == 1:
            return True
        if doubt is not None:
            self._touched_again(key, doubt, ctime_ns)
        elif (pair := self._service.sources.reading(key)) is not None:
            self.touched(key, pair, ctime_ns)
        return False

    def _begin(self, key: ShardKey, doubt: _Doubt) -> None:
        shard = self._service.model.shards.get(key)
        doubt.tries += 1
        states = shard.states if shard is not None else b""
        doubt.left.clear()
        doubt.left.extend(block for block, state in enumerate(states) if state in _IN_SLAB)
        self._go_on(key, doubt)

    def _go_on(self, key: ShardKey, doubt: _Doubt) -> None:
        at_once = max(1, self._service.fleet.slots)
        while not doubt.ended and doubt.left and doubt.under_way < at_once:
            self._look(key, doubt, doubt.left.popleft())
        if not doubt.ended and not doubt.under_way and not doubt.left:
            self._equal(key, doubt)

    def _look(self, key: ShardKey, doubt: _Doubt, block: int) -> None:
        service = self._service
        backing = service.backings.get(key)
        if backing is None or not _in_slab(service, key, block):
            return
        start, stop = block_span(block, backing.stored.size_bytes, service.settings.block_bytes)
        number, stored = service.fleet.next_job(), doubt.pair.stored
        job = jobs.Reread(number, stored, doubt.pair.handle, {}, start, stop)
        doubt.under_way += 1

        def answered(answer: jobs.Answer | None) -> None:
            doubt.under_way -= 1
            if not doubt.ended:
                self._judge(key, doubt, block, answer)
            if not doubt.ended:
                self._go_on(key, doubt)

        service.fleet.submit(job, answered, limit_s=service.settings.source_wait_s)

    def _judge(self, key: ShardKey, doubt: _Doubt, block: int, answer: jobs.Answer | None) -> None:
        match answer:
            case None:
                doubt.left.append(block)
            case jobs.Checksummed(_, checksum, ctime_ns):
                self._service.fetches.reading.proof_bytes += self._size_of(key, block)
                if ctime_ns != doubt.ctime_ns:
                    self._touched_again(key, doubt, ctime_ns)
                elif self._differs(key, block, checksum):
                    self._supersede(key, doubt)
            case jobs.JobFailed(_, code, message):
                self._end(key, doubt, error_from_code(code, message))
            case _:
                self._end(key, doubt, StreamerError(f"{key.uri}: a worker answered nonsense"))

    def _size_of(self, key: ShardKey, block: int) -> int:
        shard = self._service.model.shards.get(key)
        return shard.bytes_of(block, block + 1) if shard is not None else 0

    def _differs(self, key: ShardKey, block: int, checksum: int) -> bool:
        backing = self._service.backings.get(key)
        if backing is None or not _in_slab(self._service, key, block):
            return False  # it was given up meanwhile, and is read anew when it is wanted
        return backing.checksums[block] != checksum

    def _touched_again(self, key: ShardKey, doubt: _Doubt, ctime_ns: int) -> None:
        if doubt.tries >= MOST_TRIES:
            name = doubt.pair.stored.uri
            text = f"{name}: it is changed while it is looked at; load it when nothing writes to it"
            self._end(key, doubt, SourceChanged(text))
            return
        doubt.ctime_ns = ctime_ns
        self._begin(key, doubt)

    def _supersede(self, key: ShardKey, doubt: _Doubt) -> None:
        self.supersede(key, doubt.pair.stored.uri)
        self._end(key, doubt, None)

    def supersede(self, key: ShardKey, name: str) -> None:
        """The file has other bytes now: end the loads of the old ones, let the next begin anew."""
        logger.warning("file was rewritten in place uri=%s", name)
        service = self._service
        service.editions.supersede(key)
        self.superseded(key)
        service.post(events.ShardSuperseded(service.now_s, key, f"{name}: {_SUPERSEDED}"))

    def _equal(self, key: ShardKey, doubt: _Doubt) -> None:
        if (backing := self._service.backings.get(key)) is not None:
            backing.ctime_ns = doubt.ctime_ns
            # The file was touched after it was examined, perhaps: that is no doubt any more.
            doubt.pair.ctime_ns = doubt.ctime_ns
        self._end(key, doubt, None)

    def _end(self, key: ShardKey, doubt: _Doubt, error: StreamerError | None) -> None:
        doubt.ended = True
        del self._doubts[key]
        doubt.pair.release()
        for then in doubt.waiting:
            then(error)


def _in_slab(service: Service, key: ShardKey, block: int) -> bool:
    shard = service.model.shards.get(key)
    return shard is not None and shard.states[block] in _IN_SLAB
