"""`streamerctl verify`: what is in memory against its checksums, and against its source.

Decides what is looked at next and what a difference means; workers do the reading, a few blocks at
once, so that loads hardly notice. Runs in the daemon's loop. Nothing is leased: a block that is
given up before its turn is skipped, and one given up while it is looked at is looked at again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from streamer_client.contract.layout import block_span
from streamer_client.contract.messages import Finding, Message, Verified, Verify, Verifying
from streamer_client.contract.uris import is_remote
from streamerd.reading.backing import Backing
from streamerd.reading.sources import Pair
from streamerd.service import Service
from streamerd.state.events import ShardKey
from streamerd.state.lifecycle import BlockState
from streamerd.state.shard import Shard
from streamerd.workers import jobs

AT_ONCE: Final = 2
"""Blocks that are looked at at the same time."""
TELL_EACH_S: Final = 0.25


class _Look(NamedTuple):
    """One look at one block: what it is, and how things stood when it began."""

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
        service: whose blocks.
        request: what was asked.
        shards: which shards.
        pairs: what those of them that are local files can be read through.
        tell: sends a message to who asked.
    """

    def __init__(
        self,
        service: Service,
        request: Verify,
        shards: Sequence[Shard],
        pairs: Mapping[ShardKey, Pair],
        tell: Callable[[Message], None],
    ) -> None:
        self._service = service
        self._request = request
        self._tell = tell
        self._pairs = {key: pair.retain() for key, pair in pairs.items()}
        self._left = deque(
            (shard.key, block) for shard in shards for block in _resident_blocks(shard)
        )
        self._total_bytes = sum(_resident_bytes(service, shard) for shard in shards)
        self._checked_bytes = self._skipped_bytes = self._under_way = 0
        self._findings: list[Finding] = []
        self._unreadable: set[ShardKey] = set()
        """Shards whose source could not be read: told once."""
        self._told_s = 0.0
        self._stopped = False

    def start(self) -> None:
        """Look at the first blocks; the rest follows by itself."""
        self._go_on()

    @property
    def ended(self) -> bool:
        """Whether it has told its outcome, or nobody wants to know it."""
        return self._stopped

    def stop(self) -> None:
        """It is done, or nobody wants to know any more."""
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
        now_s = self._service.now_s
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
        backing = self._service.backings.get(key)
        block_bytes = self._service.settings.block_bytes
        if backing is None or not self._is_resident(key, block):
            size_bytes = 0 if backing is None else backing.stored.size_bytes
            start, stop = block_span(block, size_bytes, block_bytes) if size_bytes else (0, 0)
            self._skipped_bytes += stop - start
            return
        start, stop = block_span(block, backing.stored.size_bytes, block_bytes)
        look = _Look(key, block, start, stop, backing, backing.slab, backing.releases)
        self._under_way += 1
        job = jobs.Checksum(self._service.fleet.next_job(), backing.slab, start, stop)
        self._service.fleet.submit(job, lambda answer: self._summed(look, answer))

    def _is_resident(self, key: ShardKey, block: int) -> bool:
        shard = self._service.model.shards.get(key)
        return shard is not None and shard.states[block] == BlockState.RESIDENT

    def _undisturbed(self, look: _Look) -> bool:
        """Whether the block stayed where it was while it was looked at."""
        now = look.backing.slab, look.backing.releases
        return now == (look.slab, look.releases) and self._is_resident(look.shard, look.block)

    def _summed(self, look: _Look, answer: jobs.Answer | None) -> None:
        kept = look.backing.checksums[look.block]
        if isinstance(answer, jobs.Checksummed) and answer.checksum == kept:
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
        fleet, service = self._service.fleet, self._service
        span = look.start, look.stop

        def read(job: jobs.Reread, limit_s: float | None) -> None:
            fleet.submit(job, lambda answer: self._read_again(look, answer), limit_s=limit_s)

        if is_remote(look.backing.stored.uri):
            stored, environment = look.backing.stored, self._request.environment
            job = jobs.Reread(fleet.next_job(), stored, None, environment, *span)
            service.fetches.pace.begin(look.stop - look.start, lambda: read(job, None))
            return
        pair = self._pairs.get(look.shard)
        if pair is None:
            self._cannot_compare(
                look, "its file cannot be opened by this user under the given name"
            )
            self._checked(look)
            return
        job = jobs.Reread(fleet.next_job(), pair.stored, pair.handle, {}, *span)
        read(job, service.settings.source_wait_s)

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


def _resident_blocks(shard: Shard) -> list[int]:
    return [block for block in range(shard.blocks) if shard.states[block] == BlockState.RESIDENT]


def _resident_bytes(service: Service, shard: Shard) -> int:
    block_bytes = service.settings.block_bytes
    spans = [block_span(each, shard.size_bytes, block_bytes) for each in _resident_blocks(shard)]
    return sum(stop - start for start, stop in spans)
