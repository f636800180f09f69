"""Reads that the core asked for: handed to workers, their ends turned into events.

Owns what a fetch reads with, the pace of remote ones, and the counters of what was read. Runs in
the daemon's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streamer_client.contract.errors import CredentialsExpired, SourceForbidden
from streamer_client.contract.layout import block_span
from streamer_client.contract.uris import is_remote
from streamerd.backing import Backing
from streamerd.bandwidth import Pace, TokenBucket
from streamerd.config import Settings
from streamerd.environments import Environments
from streamerd.progress import Rate
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
from streamerd.workers.supervisor import Fleet

_REFUSALS = {
    CredentialsExpired.code: FailureKind.EXPIRED,
    SourceForbidden.code: FailureKind.DENIED,
}
"""What a store says to credentials and not of an object."""


@dataclass(slots=True)
class Reading:
    """What was read from sources since the start."""

    source_bytes: int = 0
    device_bytes: int = 0
    requests: int = 0
    retries: int = 0


class Fetches:
    """Carries `FetchBlock` out.

    Args:
        settings: block size and the cap.
        fleet: who reads.
        backings: what stands behind the core's shards.
        environments: what each load's client sent along.
        post: gives an event to the core.
    """

    def __init__(
        self,
        settings: Settings,
        fleet: Fleet,
        backings: Mapping[ShardKey, Backing],
        environments: Environments,
        post: Callable[[AnyEvent], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._block_bytes = settings.block_bytes
        self._fleet = fleet
        self._backings = backings
        self._environments = environments
        self._post = post
        bucket = TokenBucket(settings.bandwidth_limit_bytes, self._loop.time)
        self.pace = Pace(bucket, self._loop.call_later)
        self.reading = Reading()
        self.rates: dict[ShardKey, Rate] = {}

    def begin(self, command: FetchBlock) -> None:
        """Have a worker read a block, remote ones when the cap lets them."""
        backing = self._backings[command.shard]
        start, stop = block_span(command.block, backing.stored.size_bytes, self._block_bytes)
        remote = is_remote(backing.stored.uri)
        environment = self._environments.of(command.lender) if remote else {}
        number = self._fleet.next_job()
        job = jobs.Fetch(number, backing.slab, backing.stored, environment, start, stop)

        def read() -> None:
            self.reading.requests += 1
            self._fleet.submit(job, lambda answer: self._ended(command, job, answer))

        if remote:
            self.pace.begin(stop - start, read)
        else:
            read()

    def _ended(self, command: FetchBlock, job: jobs.Fetch, answer: jobs.Answer | None) -> None:
        at_s, shard, block = self._loop.time(), command.shard, command.block
        match answer:
            case jobs.Fetched():
                self._note(shard, job, answer)
                self._backings[shard].checksums[block] = answer.checksum
                self._post(BlockFetched(at_s, shard, block))
            case jobs.Failed():
                self._count_retries(shard, answer.retries)
                kind, blamed = self._judge(job, answer)
                said = answer.code, answer.message
                self._post(FetchFailed(at_s, shard, block, kind, *said, blamed))
            case _:
                lost = FailureKind.WORKER_LOST
                text = f"reading {shard.uri} ended a fetch worker"
                self._post(FetchFailed(at_s, shard, block, lost, "internal", text))

    def _note(self, shard: ShardKey, job: jobs.Fetch, answer: jobs.Fetched) -> None:
        size_bytes = job.stop - job.start
        self.reading.source_bytes += size_bytes
        self.reading.device_bytes += max(0, answer.device_bytes)
        self.rates.setdefault(shard, Rate()).add(self._loop.time(), size_bytes)
        self._count_retries(shard, answer.retries)

    def _count_retries(self, shard: ShardKey, retries: int) -> None:
        self.reading.retries += retries
        self._backings[shard].retries += retries

    def _judge(
        self, job: jobs.Fetch, answer: jobs.Failed
    ) -> tuple[FailureKind, tuple[LoadKey, ...]]:
        """What a failure means, and whose credentials are to blame for it.

        Credentials that were renewed while the read was under way are not: nobody lends them any
        more.
        """
        if answer.no_space:
            return FailureKind.NO_SPACE, ()
        kind = _REFUSALS.get(answer.code) if is_remote(job.shard.uri) else None
        if kind is None:
            return FailureKind.ERROR, ()
        return kind, self._environments.lending(job.environment)
