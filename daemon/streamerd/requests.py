"""What clients ask, turned into the core's events and into answers.

Runs in the daemon's loop, called by the control socket for every message. Checks each request; a
bad one is answered with `Failed` and changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from streamer_client.contract import messages
from streamer_client.contract.errors import (
    ConfigError,
    ProtocolMismatch,
    StreamerError,
)
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import StoredShard
from streamerd import __version__
from streamerd.backing import Backing
from streamerd.cache import Cache
from streamerd.checksums import Checksums
from streamerd.resolved import first_bytes, resolved_shards, total_bytes
from streamerd.service import Service, Ticket
from streamerd.state import events
from streamerd.state.events import LoadKey, ShardKey, ShardSpec
from streamerd.status import status_body
from streamerd.verification import Verification
from streamerd.workers import jobs

logger = logging.getLogger(__name__)

PREFETCH_OWNER = ""
"""Prefetches belong to the daemon itself: they go on when whoever asked has left."""

_FIRST_BLOCKS: dict[str, Callable[[int], int]] = {
    "all": lambda blocks: blocks,
    "headers": lambda blocks: min(1, blocks),
    "none": lambda _blocks: 0,
}

_JUDGED_BY_STATE = (
    messages.GetStatus,
    messages.Evict,
    messages.Pin,
    messages.Unpin,
    messages.Verify,
)


class Requests:
    """Answers clients."""

    def __init__(self, service: Service, config_body: dict[str, object]) -> None:
        self._service = service
        self._cache = Cache(service)
        self.config_body = config_body
        self._resolving: dict[LoadKey, int] = {}
        """Opens whose source a worker lists, by the numbers of their requests."""
        self._prefetches = 0
        self._verifications: dict[str, list[Verification]] = {}
        """Those under way, by who asked."""

    def receive(self, peer: str, pid: int, message: messages.ClientMessage) -> None:
        """Answer one message."""
        try:
            self._receive(peer, pid, message)
        except StreamerError as error:
            request_id = getattr(message, "request_id", -1)
            self._send(peer, messages.Failed(request_id, error.code, str(error)))

    def _send(self, peer: str, message: messages.Message) -> None:
        self._service.control.send(peer, message)

    def _receive(self, peer: str, pid: int, message: messages.ClientMessage) -> None:
        if isinstance(message, messages.Hello):
            self._hello(peer, pid, message)
            return
        known = self._service.peers.get(peer)
        if known is None:
            raise ProtocolMismatch("say Hello first: this daemon does not know the connection")
        known.seen_s = self._service.now_s
        if isinstance(message, _JUDGED_BY_STATE):
            self._service.turn()  # what was said before counts
        match message:
            case messages.Consumed(load, ranges):
                self._blocks(peer, load, ranges, events.BlocksConsumed)
            case messages.Heartbeat():
                self._send(peer, message)
            case messages.Want(load, ranges):
                self._blocks(peer, load, ranges, events.WantsReplaced)
            case messages.Open():
                self._open(peer, message)
            case messages.ReleaseShards(load, shards):
                self._release(LoadKey(peer, load), shards)
            case messages.Close(load):
                self._resolving.pop(LoadKey(peer, load), None)
                self._service.tickets.pop(LoadKey(peer, load), None)
                self._service.post(events.LoadClosed(self._service.now_s, LoadKey(peer, load)))
            case messages.Renew(load, environment):
                self._renew(LoadKey(peer, load), environment)
            case messages.Goodbye():
                self._service.peers.remove(peer)
                self.gone(peer)
            case messages.Prefetch():
                self._prefetch(peer, message)
            case messages.GetStatus(request_id):
                self._send(peer, messages.Status(request_id, status_body(self._service)))
            case messages.GetConfig(request_id):
                self._send(peer, messages.Config(request_id, self.config_body))
            case messages.Evict(request_id, sources):
                self._cache.evict(
                    sources, lambda told: self._send(peer, messages.Done(request_id, told))
                )
            case messages.Pin(request_id, source):
                self._send(peer, messages.Done(request_id, self._cache.pin(source)))
            case messages.Unpin(request_id, source):
                self._send(peer, messages.Done(request_id, self._cache.unpin(source)))
            case messages.Verify(source=source):
                self._verify(peer, message, source)

    def gone(self, peer: str) -> None:
        """A client left or died."""
        for key in [key for key in self._resolving if key.owner == peer]:
            del self._resolving[key]
        for key in [key for key in self._service.tickets if key.owner == peer]:
            del self._service.tickets[key]
        for verification in self._verifications.pop(peer, ()):
            verification.stop()
        self._service.post(events.OwnerGone(self._service.now_s, peer))

    def _hello(self, peer: str, pid: int, message: messages.Hello) -> None:
        if message.protocol != messages.PROTOCOL:
            raise ProtocolMismatch(
                f"client {message.version} speaks protocol {message.protocol}, this daemon "
                f"{__version__} speaks {messages.PROTOCOL}; install the same version on both sides"
            )
        self._service.peers.add(peer, pid, message.pid, message.label)
        logger.info("client connected pid=%d label=%r", pid or message.pid, message.label)
        service = self._service
        welcome = messages.Welcome(
            message.request_id,
            messages.PROTOCOL,
            __version__,
            os.getpid(),
            service.instance,
            service.settings.heartbeat_s,
        )
        self._send(peer, welcome)

    # --- loads ----------------------------------------------------------------------------------

    def _open(self, peer: str, message: messages.Open) -> None:
        key = LoadKey(peer, message.load)
        known = (self._service.model.loads, self._service.tickets, self._resolving)
        if any(key in loads for loads in known):
            raise ProtocolMismatch(f"load {message.load} of this connection is open already")
        if message.want not in _FIRST_BLOCKS:
            words = ", ".join(_FIRST_BLOCKS)
            raise ProtocolMismatch(f"want={message.want!r} is unknown; it is one of {words}")
        if message.memory_limit < -1:
            raise ConfigError(f"memory_limit must be -1, 0 or bytes, got {message.memory_limit}")
        if message.concurrency is not None and message.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, got {message.concurrency}")
        self._resolving[key] = message.request_id

        def opened(shards: tuple[StoredShard, ...]) -> None:
            if self._resolving.get(key) != message.request_id:
                return  # it was closed meanwhile
            del self._resolving[key]
            blocks_of = _FIRST_BLOCKS[message.want]
            wants = [
                BlockRange(index, 0, blocks_of(self._block_count(shard)))
                for index, shard in enumerate(shards)
            ]
            event = events.LoadOpened(
                self._service.now_s,
                key,
                self._specs(shards),
                tuple(wants),
                hold=message.hold,
                memory_limit=message.memory_limit,
                concurrency=message.concurrency,
            )
            ticket = Ticket(peer, message.request_id, total_bytes(shards))
            self._post_open(event, ticket, message.environment)

        self._resolve(peer, message, opened)

    def _block_count(self, shard: StoredShard) -> int:
        return block_count(shard.size_bytes, self._service.settings.block_bytes)

    def _specs(self, shards: Sequence[StoredShard]) -> tuple[ShardSpec, ...]:
        """Note where shards are read from; the core only sees their keys and sizes."""
        specs = []
        for stored in shards:
            key = ShardKey(stored.uri, stored.identity)
            if key not in self._service.backings:
                checksums = Checksums(self._block_count(stored))
                self._service.backings[key] = Backing(stored, checksums)
            self._service.failures.pop(stored.uri, None)
            specs.append(ShardSpec(key, stored.size_bytes, is_remote(stored.uri)))
        return tuple(specs)

    def _post_open(
        self, event: events.LoadOpened, ticket: Ticket, environment: dict[str, str]
    ) -> None:
        self._service.tickets[event.load] = ticket
        self._service.environments.lend(event.load, environment)
        self._service.post(event)

    def _resolve(
        self,
        peer: str,
        message: messages.Open | messages.Prefetch,
        then: Callable[[tuple[StoredShard, ...]], None],
    ) -> None:
        """Let a worker list the source, since the loop must not wait for a disk or a store."""
        number = self._service.fleet.next_job()
        asked = message.source, message.pattern, message.files
        job = jobs.Resolve(number, *asked, message.environment)

        def answered(answer: jobs.Answer | None) -> None:
            try:
                then(resolved_shards(message.source, answer))
            except StreamerError as error:
                if isinstance(message, messages.Open):
                    self._resolving.pop(LoadKey(peer, message.load), None)
                self._send(peer, messages.Failed(message.request_id, error.code, str(error)))

        self._service.fleet.submit(job, answered)

    def _blocks(
        self,
        peer: str,
        number: int,
        ranges: tuple[BlockRange, ...],
        event: type[events.BlocksConsumed | events.WantsReplaced],
    ) -> None:
        load = self._service.model.loads.get(LoadKey(peer, number))
        if load is None:
            return  # it was closed, or it failed, while this was on its way
        for index, start, stop in ranges:
            blocks = load.shards[index].blocks if 0 <= index < len(load.shards) else -1
            if not 0 <= start <= stop <= blocks:
                raise ProtocolMismatch(f"load {number} has no blocks {start}-{stop} of {index}")
        self._service.post(event(self._service.now_s, load.key, ranges))

    def _release(self, key: LoadKey, shards: tuple[int, ...]) -> None:
        load = self._service.model.loads.get(key)
        if load is not None and all(0 <= index < len(load.shards) for index in shards):
            self._service.post(events.ShardsReleased(self._service.now_s, key, shards))

    def _renew(self, key: LoadKey, environment: dict[str, str]) -> None:
        if key in self._service.environments:
            newer = self._service.environments.renew(key, environment)
            self._service.post(events.CredentialsRenewed(self._service.now_s, key, newer))

    def _prefetch(self, peer: str, message: messages.Prefetch) -> None:
        def resolved(shards: tuple[StoredShard, ...]) -> None:
            self._prefetches += 1
            key = LoadKey(PREFETCH_OWNER, self._prefetches)
            block_bytes = self._service.settings.block_bytes
            chosen, wants = first_bytes(shards, message.limit_bytes, block_bytes)
            event = events.LoadOpened(
                self._service.now_s,
                key,
                self._specs(chosen),
                wants,
                hold=True,
                hold_required=True,
                pin=message.pin,
            )
            ticket = Ticket(peer, message.request_id, total_bytes(chosen))
            self._post_open(event, ticket, message.environment)

        self._resolve(peer, message, resolved)

    def _verify(self, peer: str, message: messages.Verify, source: str) -> None:
        shards = self._cache.shards_of(source)
        verification = Verification(
            self._service, message, shards, lambda told: self._send(peer, told)
        )
        self._verifications.setdefault(peer, []).append(verification)
        verification.start()
