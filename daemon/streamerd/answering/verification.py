"""Compares blocks in memory with their checksums and their source, for `streamerctl verify`.

This module decides which block is next and what a difference means. Workers read a few blocks at
once, so that loads are hardly slowed. A verification leases nothing: a block that is released
before its turn is skipped, and one that is released while it is compared is compared again. Runs in
the daemon's loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from streamer_client.contract.layout import block_span
from streamer_client.contract.messages import Finding, Message, Verified, Verify, Verifying
from streamer_client.contract.uris import is_remote
from streamerd.reading.backing import Backing
from streamerd.reading.bandwidth import Pace
from streamerd.reading.sources import Pair
from streamerd.service.views import Events, ModelView, ShardView
from streamerd.state.events import ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers

AT_ONCE: Final = 2
"""How many blocks of one verification are compared at the same time."""
TELL_EACH_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Means:
    """The parts of the daemon that every verification uses."""

    model: ModelView
    events: Events
    """Used for their clock alone."""
    backings: Mapping[ShardKey, Backing]
    workers: Workers
    pace: Pace
    """The pace of reads from stores."""
    block_bytes: int
    wait_s: float
    """Seconds that a file system may take to answer."""


class _Look(NamedTuple):
    """One comparison: the block, and the state of its slab when the comparison began."""

    shard: ShardKey
    block: int
    start: int
    stop: int
    backing: Backing
    slab: int
    releases: int


class Verification:
    """One verification under way.

    Args:
        means: the parts of the daemon that it uses.
        request: the client's message.
        shards: the shards to verify.
        pairs: the descriptors to read through, for shards that are local files.
        tell: sends a message to the client that asked.
    """

    def __init__(
        self,
        means: Means,
        request: Verify,
        shards: Sequence[ShardView],
        pairs: Mapping[ShardKey, Pair],
        tell: Callable[[Message], None],
    ) -> None:
        self._means = means
        self._request = request
        self._tell = tell
        self._pairs = {key: pair.retain() for key, pair in pairs.items()}
        self._left = deque(
            (shard.key, block) for shard in shards for block in _resident_blocks(shard)
        )
        self._total_bytes = sum(_resident_bytes(shard, means.block_bytes) for shard in shards)
        self._checked_bytes = self._skipped_bytes = self._under_way = 0
        self._findings: list[Finding] = []
        self._unreadable: set[ShardKey] = set()
        """Shards whose source could not be read, which the client is told once for each."""
        self._told_s = 0.0
        self._stopped = False

    def start(self) -> None:
        """Begin with the first blocks; each block that is done starts the next."""
        self._go_on()

    @property
    def ended(self) -> bool:
        """Whether the client was told the outcome, or has left."""
        return self._stopped

    def stop(self) -> None:
        """Compare no further block, since the outcome was told or the client has left."""
        self._stopped = True
        self._release()

    def _release(self) -> None:
        pairs, self._pairs = self._pairs, {}
        for pair in pairs.values():
            pair.release()

    def _go_on(self) -> None:
        if self._stopped:
            return
        while self._left and self._under_way < AT_ONCE:
            self._look(*self._left.popleft())
        now_s = self._means.events.now_s
        if not self._under_way:
            counted = self._checked_bytes, self._skipped_bytes
            findings = tuple(sorted(self._findings, key=lambda each: (each.uri, each.start)))
            self._tell(Verified(self._request.request_id, *counted, findings))
            self.stop()
        elif now_s - self._told_s >= TELL_EACH_S:
            self._told_s = now_s
            done_bytes = self._checked_bytes + self._skipped_bytes
            self._tell(Verifying(self._request.request_id, done_bytes, self._total_bytes))

    # --- one block ------------------------------------------------------------------------------

    def _look(self, key: ShardKey, block: int) -> None:
        backing, block_bytes = self._means.backings.get(key), self._means.block_bytes
        if backing is None or not self._is_resident(key, block):
            size_bytes = 0 if backing is None else backing.stored.size_bytes
            start, stop = block_span(block, size_bytes, block_bytes) if size_bytes else (0, 0)
            self._skipped_bytes += stop - start
            return
        start, stop = block_span(block, backing.stored.size_bytes, block_bytes)
        look = _Look(key, block, start, stop, backing, backing.slab, backing.releases)
        self._under_way += 1
        job = jobs.Checksum(self._means.workers.next_job(), backing.slab, start, stop)
        self._means.workers.submit(job, lambda answer: self._summed(look, answer))

    def _is_resident(self, key: ShardKey, block: int) -> bool:
        shard = self._means.model.shards.get(key)
        return shard is not None and shard.states[block] == BlockState.RESIDENT

    def _undisturbed(self, look: _Look) -> bool:
        """Whether the block was not released while it was compared."""
        now = look.backing.slab, look.backing.releases
        return now == (look.slab, look.releases) and self._is_resident(look.shard, look.block)

    def _summed(self, look: _Look, answer: jobs.Answer | None) -> None:
        expected = look.backing.checksums[look.block]
        if isinstance(answer, jobs.Checksummed) and answer.checksum == expected:
            if self._request.against_source and look.shard not in self._unreadable:
                self._reread(look)
                return
        elif not self._undisturbed(look) or answer is None:
            self._left.append((look.shard, look.block))
            self._end()
            return
        elif isinstance(answer, jobs.JobFailed):
            self._find(look, f"could not be looked at: {answer.message}")
        else:
            self._find(
                look,
                "in memory it is not what was read: its memory was overwritten or is faulty. Evict "
                "the shard and load it again; when it happens again, check this machine's RAM",
            )
        self._checked(look)

    def _reread(self, look: _Look) -> None:
        workers = self._means.workers
        span = look.start, look.stop

        def read(job: jobs.Reread, limit_s: float | None) -> None:
            workers.submit(job, lambda answer: self._read_again(look, answer), limit_s=limit_s)

        if is_remote(look.backing.stored.uri):
            stored, environment = look.backing.stored, self._request.environment
            job = jobs.Reread(workers.next_job(), stored, None, environment, *span)
            self._means.pace.begin(look.stop - look.start, lambda: read(job, None))
            return
        pair = self._pairs.get(look.shard)
        if pair is None:
            self._cannot_compare(
                look, "its file cannot be opened by this user under the given name"
            )
            self._checked(look)
            return
        job = jobs.Reread(workers.next_job(), pair.stored, pair.handle, {}, *span)
        read(job, self._means.wait_s)

    def _cannot_compare(self, look: _Look, why: str) -> None:
        if look.shard not in self._unreadable:
            self._unreadable.add(look.shard)
            self._find(look, f"could not be compared with its source: {why}")

    def _read_again(self, look: _Look, answer: jobs.Answer | None) -> None:
        match answer:
            case jobs.Checksummed(checksum=checksum):
                if checksum != look.backing.checksums[look.block] and self._undisturbed(look):
                    self._find(
                        look,
                        "its source gives other bytes now under the same identity: the source was "
                        "changed in place, or one of the two reads was damaged on its way. Evict "
                        "the shard, and verify again after the next load",
                    )
            case jobs.JobFailed(message=message):
                self._cannot_compare(look, message)
            case None:
                self._left.append((look.shard, look.block))
                self._end()
                return
        self._checked(look)

    def _find(self, look: _Look, message: str) -> None:
        finding = Finding(look.backing.stored.uri, look.block, look.start, look.stop, message)
        self._findings.append(finding)

    def _checked(self, look: _Look) -> None:
        self._checked_bytes += look.stop - look.start
        self._end()

    def _end(self) -> None:
        self._under_way -= 1
        self._go_on()


def _resident_blocks(shard: ShardView) -> list[int]:
    return [block for block in range(shard.blocks) if shard.states[block] == BlockState.RESIDENT]


def _resident_bytes(shard: ShardView, block_bytes: int) -> int:
    spans = [block_span(each, shard.size_bytes, block_bytes) for each in _resident_blocks(shard)]
    return sum(stop - start for start, stop in spans)
