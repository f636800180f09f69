"""Hands the fetches that the core asked for to workers, and turns their ends into events.

This module chooses the credentials or descriptors of each fetch, and owns the pace of remote ones.
It counts what was read in `totals.py`. Runs in the daemon's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from streamer_client.contract.errors import (
    CredentialsExpired,
    SourceChanged,
    SourceError,
    SourceForbidden,
    StreamerError,
)
from streamer_client.contract.layout import block_span
from streamer_client.contract.uris import is_remote
from streamer_client.storage.remembered import Remembered
from streamerd.reading.backing import Backing
from streamerd.reading.bandwidth import Pace, Rate, TokenBucket
from streamerd.reading.peer_reads import STALE_S, PeerReads
from streamerd.reading.sources import Pair, Sources
from streamerd.reading.totals import FILE_KIND, PEER_KIND, Read, ReadTotals, kind_of
from streamerd.settings.config import Settings
from streamerd.state.commands import FetchBlock
from streamerd.state.events import (
    AnyEvent,
    BlockFetched,
    FailureKind,
    FetchFailed,
    LoadKey,
    ShardKey,
)
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import NOTHING, Environments, Sent
from streamerd.workers.in_daemon.supervisor import Workers

ALONE: Final = "alone"
"""The reason for reading a block from the store if no other node is known. It also stands for an
object without a validator, of which other nodes may have another content."""
_REFUSALS = {
    CredentialsExpired.code: FailureKind.EXPIRED,
    SourceForbidden.code: FailureKind.DENIED,
}
"""Codes of errors with which a store refuses credentials. The failure of a read with such a code
concerns the credentials, and not the object."""


class Fetches:
    """Carries `FetchBlock` out.

    Args:
        settings: block size, the cap on remote reads, and the time limit for file systems.
        workers: the workers that read.
        backings: the backings of the core's shards.
        environments: the environments that loads' clients sent.
        sources: the descriptors that local shards are read through.
        post: gives an event to the core.
        is_outdated: called for each block that was read, with the shard, the ctime of its file and
            the number of the attempt; returns whether to read the block again.
        totals: where reads are counted.
        listings: remembers which listings contradicted an object.
        peer_reads: the reads from other nodes; None if there is no fleet.
    """

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        backings: Mapping[ShardKey, Backing],
        environments: Environments,
        sources: Sources,
        post: Callable[[AnyEvent], None],
        is_outdated: Callable[[ShardKey, int, int], bool],
        totals: ReadTotals,
        listings: Remembered[str, bool],
        peer_reads: PeerReads | None = None,
    ) -> None:
        self._listings = listings
        self._peer_reads = peer_reads
        self._loop = asyncio.get_running_loop()
        self._block_bytes = settings.block_bytes
        self._wait_s = settings.source_wait_s
        self._sources = sources
        self._is_outdated = is_outdated
        self._totals = totals
        self._workers = workers
        self._backings = backings
        self._environments = environments
        self._post = post
        bucket = TokenBucket(settings.bandwidth_limit_bytes, self._loop.time)
        self.pace = Pace(bucket, self._loop.call_later)
        self._rates: dict[ShardKey, Rate] = {}

    def bytes_per_s(self, shard: ShardKey) -> float:
        """Bytes a second that arrive of a shard now."""
        rate = self._rates.get(shard)
        return rate.bytes_per_s(self._loop.time()) if rate is not None else 0.0

    def forget_rate(self, shard: ShardKey) -> None:
        """Forget the rate of a shard that has no slab any more."""
        self._rates.pop(shard, None)

    def begin(self, command: FetchBlock, sent: Sent, *, backed: bool) -> None:
        """Have a worker read a block; a remote read waits for the cap.

        Args:
            command: what to read.
            sent: the environment of the load's client.
            backed: whether the block has been backed with memory already; otherwise the worker
                backs it.
        """
        backing = self._backings[command.shard]
        if backing.slab_error is not None:
            self._fail(command, FailureKind.ERROR, backing.slab_error)
        elif kind_of(backing.stored.uri) == FILE_KIND:
            self._read_local(command, attempt=1, backed=backed)
        elif (reads := self._peer_reads) is None:
            self._read_store(command, sent, backed=backed)
        else:
            reads.when_open(lambda: self._read_remote(reads, command, sent, backed=backed))

    def _read_store(self, command: FetchBlock, sent: Sent, *, backed: bool) -> None:
        size_bytes = self._backings[command.shard].stored.size_bytes
        start, stop = block_span(command.block, size_bytes, self._block_bytes)
        self.pace.begin(stop - start, lambda: self._read(command, None, sent, backed=backed))

    def _read_remote(
        self, reads: PeerReads, command: FetchBlock, sent: Sent, *, backed: bool
    ) -> None:
        """Read a block from peers if there are any, else from the store.

        A read that waits for the store still goes to peers that become known meanwhile.
        """
        shared = self._backings[command.shard].stored.validated
        if shared and reads.useful:
            reads.peers.begin(lambda: self._read(command, None, sent, backed=backed, peers=True))
            return

        def alone() -> None:
            if shared and reads.useful:
                reads.store.end()
                self._read_remote(reads, command, sent, backed=backed)
                return
            reads.totals.store_reads[ALONE] += 1
            reads.from_store.add((command.shard, command.block))
            self._read_store(command, sent, backed=backed)

        reads.store.begin(alone)

    def _to_store(
        self, peer_reads: PeerReads, command: FetchBlock, sent: Sent, reason: str, search: int
    ) -> None:
        """Read a block from the store that no peer hands over, when its turn comes.

        If the turn comes late, peers are searched a second time. The search may have taken long, so
        the newest credentials of a load that still lives are used.
        """
        decided_s, which = self._loop.time(), (command.shard, command.block)
        peer_reads.from_store.add(which)
        load = command.credentials_of
        now = self._environments.sent(load) if load in self._environments else sent

        # The block was backed for the attempt to read it from peers.
        def search_again() -> None:
            self._read(command, None, now, attempt=search + 1, backed=True, peers=True)

        def turn() -> None:
            if search == 1 and self._loop.time() - decided_s > STALE_S and peer_reads.useful:
                peer_reads.from_store.discard(which)
                peer_reads.peers.begin(search_again, first=True)
                peer_reads.store.end()
                return
            peer_reads.totals.store_reads[reason] += 1
            self._read_store(command, now, backed=True)

        peer_reads.store.begin(turn, first=search > 1)

    def _left_peers(
        self,
        peer_reads: PeerReads,
        command: FetchBlock,
        sent: Sent,
        job: jobs.Fetch,
        answer: jobs.Answer | None,
        search: int,
    ) -> bool:
        """Note that one stage of a read ended; returns whether the store is read next."""
        size_bytes = job.stop - job.start
        if not job.peers:
            peer_reads.store.end()
            peer_reads.from_store.discard((command.shard, command.block))
            if isinstance(answer, jobs.Fetched):
                peer_reads.totals.store_bytes += size_bytes
            return False
        peer_reads.end_search()
        if isinstance(answer, jobs.JobFailed) and answer.code == jobs.FROM_STORE:
            self._to_store(peer_reads, command, sent, answer.message, search)
            return True
        if isinstance(answer, jobs.Fetched):
            peer_reads.totals.peer_blocks += 1
            peer_reads.totals.peer_bytes += size_bytes
        return False

    def _read_local(self, command: FetchBlock, *, attempt: int, backed: bool) -> None:
        pair = self._sources.reading(command.shard)
        if pair is None:
            uri = self._backings[command.shard].stored.uri
            text = f"{uri}: nobody who may read it is left; load it again"
            self._fail(command, FailureKind.ERROR, SourceError(text))
        else:
            self._read(command, pair, NOTHING, attempt=attempt, backed=backed)

    def _read(
        self,
        command: FetchBlock,
        pair: Pair | None,
        sent: Sent,
        *,
        attempt: int = 1,
        backed: bool,
        peers: bool = False,
    ) -> None:
        backing = self._backings[command.shard]
        stored = backing.stored if pair is None else pair.stored
        start, stop = block_span(command.block, stored.size_bytes, self._block_bytes)
        handle = None if pair is None else pair.handle
        number = self._workers.next_job()
        # No credentials of a store are sent to another node.
        used = NOTHING if peers else sent
        job = jobs.Fetch(
            number, backing.slab, stored, handle, used.environment, start, stop, used.digest,
            backed, peers,
        )  # fmt: skip
        kind = PEER_KIND if peers else kind_of(stored.uri)
        self._totals.kinds[kind].requests += 1
        limit_s = None if pair is None else self._wait_s
        ended = partial(self._ended, command, sent, job, kind, attempt, self._loop.time())
        self._workers.submit(job, ended, limit_s=limit_s)

    def _fail(self, command: FetchBlock, kind: FailureKind, error: StreamerError) -> None:
        said = error.code, str(error)
        self._post(FetchFailed(self._loop.time(), command.shard, command.block, kind, *said))

    def _ended(
        self,
        command: FetchBlock,
        sent: Sent,
        job: jobs.Fetch,
        source_kind: str,
        attempt: int,
        asked_s: float,
        answer: jobs.Answer | None,
    ) -> None:
        at_s, shard, block = self._loop.time(), command.shard, command.block
        if job.digest and command.credentials_of not in self._environments:
            self._environments.left(job.digest)
        reads = self._peer_reads
        if (
            reads is not None
            and job.source is None
            and self._left_peers(reads, command, sent, job, answer, attempt)
        ):
            return
        match answer:
            case jobs.Fetched():
                self._note(command, job, source_kind, answer, asked_s, at_s)
                if job.source is not None and self._is_outdated(shard, answer.ctime_ns, attempt):
                    self._read_local(command, attempt=attempt + 1, backed=True)
                    return
                self._backings[shard].checksums[block] = answer.checksum
                self._post(BlockFetched(at_s, shard, block))
            case jobs.JobFailed():
                self._note_failure(shard, job, answer)
                if self._others_can_read(shard, job, answer):
                    self._read_local(command, attempt=attempt, backed=job.backed)
                    return
                kind, blamed = self._judge(job, answer)
                said = answer.code, answer.message
                self._post(FetchFailed(at_s, shard, block, kind, *said, blamed))
            case _:
                lost = FailureKind.WORKER_LOST
                text = f"reading {job.shard.uri} ended a fetch worker"
                self._post(FetchFailed(at_s, shard, block, lost, "internal", text))

    def _others_can_read(self, shard: ShardKey, job: jobs.Fetch, answer: jobs.JobFailed) -> bool:
        if job.source is None or answer.no_space or answer.code == SourceChanged.code:
            return False
        return self._sources.refuse(shard, job.source)

    def _note(
        self,
        command: FetchBlock,
        job: jobs.Fetch,
        source_kind: str,
        answer: jobs.Fetched,
        asked_s: float,
        at_s: float,
    ) -> None:
        size_bytes = job.stop - job.start
        device_bytes, began_s = max(0, answer.device_bytes), answer.began_s or asked_s
        self._totals.add(
            Read(
                command.credentials_of, source_kind, size_bytes, device_bytes,
                asked_s, began_s, at_s, answer.worker, answer.thread,
            )
        )  # fmt: skip
        rate = self._rates.get(command.shard)
        if rate is None:
            rate = self._rates[command.shard] = Rate()
        rate.add(at_s, size_bytes)
        if answer.retries:
            self._count_retries(command.shard, job, answer.retries)

    def _note_failure(self, shard: ShardKey, job: jobs.Fetch, answer: jobs.JobFailed) -> None:
        self._count_retries(shard, job, answer.retries)
        if answer.doubted:
            self._listings.learn(answer.doubted, value=False)

    def _count_retries(self, shard: ShardKey, job: jobs.Fetch, retries: int) -> None:
        self._totals.kinds[kind_of(job.shard.uri)].retries += retries
        self._backings[shard].retries += retries

    def _judge(
        self, job: jobs.Fetch, answer: jobs.JobFailed
    ) -> tuple[FailureKind, tuple[LoadKey, ...]]:
        """The kind of a failure, and the loads whose credentials caused it.

        A load that renewed its credentials while the read was under way is not blamed: the read
        was made with older ones.
        """
        if answer.no_space:
            return FailureKind.NO_SPACE, ()
        kind = _REFUSALS.get(answer.code) if is_remote(job.shard.uri) else None
        if kind is None:
            return FailureKind.ERROR, ()
        return kind, self._environments.loads_with(job.environment)
