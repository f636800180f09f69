"""What clients ask, turned into the core's events and into answers.

Runs in the daemon's loop, called by the control socket for every message. Checks each request; a
bad one is answered with `Failed` and changes nothing.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.contract import messages
from streamer_client.contract.checks import check_shards
from streamer_client.contract.errors import (
    ConfigError,
    ProtocolMismatch,
    RequestRefused,
    StreamerError,
)
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.limits import (
    MAX_LABEL_CHARACTERS,
    MAX_LOADS,
    MAX_PREFETCHES_PER_USER,
    MAX_REQUESTS,
)
from streamer_client.contract.printable import printable
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import StoredShard
from streamerd import __version__
from streamerd.answering.cache import Cache
from streamerd.answering.handovers import Handed, Handovers
from streamerd.answering.local_files import LocalFiles, LocalShard
from streamerd.answering.resolved import first_bytes, resolved_shards, total_bytes
from streamerd.answering.status import status_body
from streamerd.answering.verification import Verification
from streamerd.control.sessions import Session
from streamerd.reading.backing import Backing, Name
from streamerd.reading.checksums import Checksums
from streamerd.service import Service, Ticket
from streamerd.state import events
from streamerd.state.events import LoadKey, ShardKey, ShardSpec
from streamerd.workers import jobs

logger = logging.getLogger(__name__)

MAX_VERIFICATIONS: Final = 8
"""Of one client at once; each keeps a few reads of each worker busy."""
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

    def __init__(
        self, service: Service, handovers: Handovers, config_body: dict[str, object]
    ) -> None:
        self._service = service
        self._handovers = handovers
        self._files = LocalFiles(service)
        self._cache = Cache(service, self._files)
        self.config_body = config_body
        self._resolving: dict[LoadKey, int] = {}
        """Opens whose source is looked at, by the numbers of their requests."""
        self._unvalidated = 0
        self._prefetches = 0
        self._prefetching: dict[LoadKey, int] = {}
        """Prefetches, by the users who asked."""
        self._finding: set[LoadKey] = set()
        """Those of which the shards are not known yet."""
        self._verifications: dict[str, list[Verification]] = {}
        """Those under way, by who asked."""

    def receive(self, session: Session, message: messages.ClientMessage) -> None:
        """Answer one message."""
        try:
            self._receive(session, message)
        except StreamerError as error:
            self._refuse(session, message, error)

    def _refuse(
        self, session: Session, message: messages.ClientMessage, error: StreamerError
    ) -> None:
        request_id = getattr(message, "request_id", -1)
        self._send(session, messages.Failed(request_id, error.code, str(error)))

    def _send(self, session: Session, message: messages.Message) -> None:
        self._service.control.send(session.name, message)

    def _receive(self, session: Session, message: messages.ClientMessage) -> None:
        if isinstance(message, _JUDGED_BY_STATE):
            self._service.turn()  # what was said before counts
        key = LoadKey(session.name, getattr(message, "load", 0))
        match message:
            case messages.Hello():
                self._hello(session, message)
            case messages.Consumed(_, ranges):
                self._blocks(key, ranges, events.BlocksConsumed)
            case messages.Heartbeat():
                self._send(session, message)
            case messages.Want(_, ranges):
                self._blocks(key, ranges, events.WantsReplaced)
            case messages.Open():
                self._open(session, key, message)
            case messages.ReleaseShards(_, shards):
                self._release(key, shards)
            case messages.Close():
                self._resolving.pop(key, None)
                self._service.tickets.pop(key, None)
                self._service.post(events.LoadClosed(self._service.now_s, key))
            case messages.Drop(transfer):
                self._handovers.drop(session, transfer)
            case messages.Renew(_, environment):
                self._renew(key, environment)
            case messages.Goodbye():
                self._service.sessions.end(session, "said goodbye")
            case messages.Prefetch():
                self._prefetch(session, message)
            case messages.GetStatus(request_id):
                self._send(session, messages.Status(request_id, status_body(self._service)))
            case messages.GetConfig(request_id):
                self._send(session, messages.Config(request_id, self.config_body))
            case messages.Evict() | messages.Pin() | messages.Unpin() | messages.Verify():
                self._control_cache(session, message)

    def gone(self, session: Session) -> None:
        """A client left or died."""
        name = session.name
        for key in [key for key in self._resolving if key.owner == name]:
            del self._resolving[key]
        for key in [key for key in self._service.tickets if key.owner == name]:
            del self._service.tickets[key]
        for verification in self._verifications.pop(name, ()):
            verification.stop()
        self._handovers.forget(session)
        self._service.post(events.OwnerGone(self._service.now_s, name))

    def _hello(self, session: Session, message: messages.Hello) -> None:
        if message.protocol != messages.PROTOCOL:
            raise ProtocolMismatch(
                f"client {printable(message.version, 40)} speaks protocol {message.protocol}, this "
                f"daemon {__version__} speaks {messages.PROTOCOL}; install the same version on "
                "both sides"
            )
        label = printable(message.label, MAX_LABEL_CHARACTERS)
        service = self._service
        service.sessions.greet(session, message.pid, label, message.world)
        logger.info("client connected pid=%d uid=%d label=%r", session.pid, session.uid, label)
        welcome = messages.Welcome(
            message.request_id,
            messages.PROTOCOL,
            __version__,
            os.getpid(),
            service.instance,
            service.settings.heartbeat_s,
            session.proof,
        )
        self._send(session, welcome)

    # --- loads ----------------------------------------------------------------------------------

    def _open(self, session: Session, key: LoadKey, message: messages.Open) -> None:
        known = (self._service.model.loads, self._service.tickets, self._resolving)
        if any(key in loads for loads in known):
            raise ProtocolMismatch(f"load {message.load} of this connection is open already")
        self._refuse_too_many(session)
        if message.want not in _FIRST_BLOCKS:
            words = ", ".join(_FIRST_BLOCKS)
            raise ProtocolMismatch(
                f"want={printable(message.want, 40)!r} is unknown; it is one of {words}"
            )
        if message.memory_limit < -1:
            raise ConfigError(f"memory_limit must be -1, 0 or bytes, got {message.memory_limit}")
        if message.concurrency is not None and message.concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, got {message.concurrency}")
        self._resolving[key] = message.request_id

        def found(shards: tuple[LocalShard, ...]) -> None:
            if self._resolving.get(key) == message.request_id:
                del self._resolving[key]
                self._opened(session, key, message, shards)

        self._find(session, key, message, found)

    def _refuse_too_many(self, session: Session) -> None:
        """Hold one client's loads against their bounds.

        Raises:
            RequestRefused: it has enough.
        """
        name = session.name
        opening = sum(key.owner == name for key in (*self._resolving, *self._service.tickets))
        if opening >= MAX_REQUESTS:
            raise RequestRefused(
                f"{opening} loads of this client are being opened, and no more may be at once; "
                "wait until some are open"
            )
        loads = sum(key.owner == name for key in self._service.model.loads)
        if loads >= MAX_LOADS:
            raise RequestRefused(
                f"{loads} loads of this client are open, and no more may be; close some first"
            )

    def _opened(
        self,
        session: Session,
        key: LoadKey,
        message: messages.Open,
        shards: tuple[LocalShard, ...],
    ) -> None:
        blocks_of = _FIRST_BLOCKS[message.want]
        wants = tuple(
            BlockRange(index, 0, blocks_of(self._block_count(shard.stored)))
            for index, shard in enumerate(shards)
        )
        event = events.LoadOpened(
            self._service.now_s,
            key,
            self._specs(shards),
            wants,
            hold=message.hold,
            memory_limit=message.memory_limit,
            concurrency=message.concurrency,
        )
        self._post_open(session, event, message, shards)

    def _find(
        self,
        session: Session,
        load: LoadKey,
        message: messages.Open | messages.Prefetch,
        then: Callable[[tuple[LocalShard, ...]], None],
    ) -> None:
        """Find a request's shards: among what was handed over, or by listing a store."""

        def failed(error: StreamerError) -> None:
            self._resolving.pop(load, None)
            self._finding.discard(load)
            self._refuse(session, message, error)

        if message.transfer:

            def examined(files: tuple[Handed, ...]) -> None:
                self._files.admit(session, load, files, then, failed)

            self._handovers.when_examined(session, message.transfer, examined, failed)
        else:
            self._resolve(session, message, then, failed)

    def _resolve(
        self,
        session: Session,
        message: messages.Open | messages.Prefetch,
        then: Callable[[tuple[LocalShard, ...]], None],
        failed: Callable[[StreamerError], None],
    ) -> None:
        """Let a worker look at a store, since the loop must not wait for one."""
        self._refuse_paths(message)
        number = self._service.fleet.next_job()
        asked = message.source, message.pattern, message.files
        job = jobs.Resolve(number, *asked, message.environment)

        def answered(answer: jobs.Answer | None) -> None:
            try:
                stored = resolved_shards(message.source, answer)
                sizes = ((shard.uri, shard.size_bytes) for shard in stored)
                check_shards(sizes, self._service.settings.block_bytes)
            except StreamerError as error:
                failed(error)
            else:
                then(tuple(self._enter_object(session, shard) for shard in stored))

        self._service.fleet.submit(job, answered)

    def _refuse_paths(self, message: messages.Open | messages.Prefetch) -> None:
        named = message.files if message.files is not None else (message.source,)
        for name in (message.source, *named):
            if not is_remote(name):
                raise ProtocolMismatch(
                    f"{printable(name)}: a path means something to its own process only; hand the "
                    "files over on the descriptor socket"
                )

    def _enter_object(self, session: Session, stored: StoredShard) -> LocalShard:
        identity = stored.identity
        if not stored.validated:
            self._unvalidated += 1
            identity = f"{identity} unvalidated {self._unvalidated}"
        key = ShardKey(stored.uri, identity)
        backing = self._service.backings.get(key)
        if backing is None:
            checksums = Checksums(self._block_count(stored))
            backing = self._service.enter(key, Backing(stored, checksums))
        backing.note_name(Name(session.uid, 0, stored.uri))
        self._service.failures.pop(stored.uri, None)
        return LocalShard(key, stored.uri, stored)

    def _block_count(self, shard: StoredShard) -> int:
        return block_count(shard.size_bytes, self._service.settings.block_bytes)

    def _specs(self, shards: Sequence[LocalShard]) -> tuple[ShardSpec, ...]:
        return tuple(
            ShardSpec(
                shard.key,
                shard.stored.size_bytes,
                is_remote(shard.stored.uri),
                transient=not shard.stored.validated,
            )
            for shard in shards
        )

    def _post_open(
        self,
        session: Session,
        event: events.LoadOpened,
        message: messages.Open | messages.Prefetch,
        shards: Sequence[LocalShard],
    ) -> None:
        names = tuple(shard.name for shard in shards)
        size_bytes = total_bytes([shard.stored for shard in shards])
        ticket = Ticket(session.name, message.request_id, size_bytes, names)
        self._service.tickets[event.load] = ticket
        self._service.environments.put(event.load, message.environment)
        self._service.post(event)

    def _blocks(
        self,
        key: LoadKey,
        ranges: tuple[BlockRange, ...],
        event: type[events.BlocksConsumed | events.WantsReplaced],
    ) -> None:
        load = self._service.model.loads.get(key)
        if load is None:
            return  # it was closed, or it failed, while this was on its way
        for index, start, stop in ranges:
            blocks = load.shards[index].blocks if 0 <= index < len(load.shards) else -1
            if not 0 <= start <= stop <= blocks:
                raise ProtocolMismatch(f"load {key.number} has no blocks {start}-{stop} of {index}")
        self._service.post(event(self._service.now_s, load.key, ranges))

    def _release(self, key: LoadKey, shards: tuple[int, ...]) -> None:
        load = self._service.model.loads.get(key)
        if load is not None and all(0 <= index < len(load.shards) for index in shards):
            self._service.post(events.ShardsReleased(self._service.now_s, key, shards))

    def _renew(self, key: LoadKey, environment: dict[str, str]) -> None:
        if key in self._service.environments:
            newer = self._service.environments.renew(key, environment)
            self._service.post(events.CredentialsRenewed(self._service.now_s, key, newer))

    # --- prefetches -----------------------------------------------------------------------------

    def _prefetch(self, session: Session, message: messages.Prefetch) -> None:
        running = self._service.model.loads.keys() | self._service.tickets.keys() | self._finding
        self._prefetching = {k: uid for k, uid in self._prefetching.items() if k in running}
        mine = Counter(self._prefetching.values())[session.uid]
        if mine >= MAX_PREFETCHES_PER_USER:
            raise RequestRefused(
                f"user {session.uid} has {mine} prefetches under way, and no more may be; wait "
                "until some are done"
            )
        self._prefetches += 1
        key = LoadKey(PREFETCH_OWNER, self._prefetches)
        self._prefetching[key] = session.uid
        self._finding.add(key)

        def found(shards: tuple[LocalShard, ...]) -> None:
            self._finding.discard(key)
            try:
                self._begin_prefetch(session, key, message, shards)
            except StreamerError as error:
                self._refuse(session, message, error)

        self._find(session, key, message, found)

    def _begin_prefetch(
        self,
        session: Session,
        key: LoadKey,
        message: messages.Prefetch,
        shards: tuple[LocalShard, ...],
    ) -> None:
        block_bytes = self._service.settings.block_bytes
        chosen, wants = first_bytes(shards, message.limit_bytes, block_bytes)
        event = events.LoadOpened(
            self._service.now_s,
            key,
            self._specs(chosen),
            wants,
            hold=True,
            prefetch=True,
            pin=message.pin,
        )
        if message.pin:
            self._cache.note_pins(session, [shard.key for shard in chosen])
        self._post_open(session, event, message, chosen)

    # --- cache control --------------------------------------------------------------------------

    def _control_cache(
        self,
        session: Session,
        message: messages.Evict | messages.Pin | messages.Unpin | messages.Verify,
    ) -> None:
        """Act on what is in memory of the files that were handed over, and of the names."""

        def act(files: tuple[Handed, ...]) -> None:
            try:
                self._act(session, message, files)
            except StreamerError as error:
                self._refuse(session, message, error)

        def failed(error: StreamerError) -> None:
            self._refuse(session, message, error)

        if message.transfer:
            self._handovers.when_examined(session, message.transfer, act, failed)
        else:
            act(())

    def _act(
        self,
        session: Session,
        message: messages.Evict | messages.Pin | messages.Unpin | messages.Verify,
        files: tuple[Handed, ...],
    ) -> None:
        match message:
            case messages.Evict(request_id, sources):
                self._cache.evict(
                    session,
                    sources,
                    files,
                    lambda told: self._send(session, messages.Done(request_id, told)),
                )
            case messages.Pin(request_id, source):
                done = self._cache.pin(session, source, files)
                self._send(session, messages.Done(request_id, done))
            case messages.Unpin(request_id, source):
                done = self._cache.unpin(session, source, files)
                self._send(session, messages.Done(request_id, done))
            case messages.Verify():
                self._verify(session, message, files)

    def _verify(
        self, session: Session, message: messages.Verify, files: tuple[Handed, ...]
    ) -> None:
        mine = self._verifications.setdefault(session.name, [])
        mine[:] = [one for one in mine if not one.ended]
        if len(mine) >= MAX_VERIFICATIONS:
            raise RequestRefused(
                f"{len(mine)} verifications of this client are under way, and no more may be; wait "
                "until some are done"
            )
        shards = self._cache.shards_of(session, message.source, files)
        pairs = self._files.pairs(files)
        verification = Verification(
            self._service, message, shards, pairs, lambda told: self._send(session, told)
        )
        mine.append(verification)
        verification.start()
