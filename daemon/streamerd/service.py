"""Carries the core's commands out and turns what happens into its events.

The one place where decisions meet sockets, workers and shared memory. Runs in the daemon's loop;
what one turn of the loop learns is given to the core at once, so that clients hear of it in one
message.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import resource
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from streamer_client.contract import messages
from streamer_client.contract.errors import MemoryLimitError, StreamerError
from streamer_client.contract.layout import block_span
from streamer_client.contract.limits import MAX_RANGES
from streamerd.control.descriptors import DescriptorSocket, OpenedSlab
from streamerd.control.sessions import Sessions
from streamerd.control.socket import ControlSocket
from streamerd.reading.backing import Backing, shard_id
from streamerd.reading.editions import Editions
from streamerd.reading.fetches import Fetches
from streamerd.reading.proofs import Proofs
from streamerd.reading.sources import Pair, Sources
from streamerd.settings.config import Settings
from streamerd.shm.lingering import Lingering
from streamerd.shm.slabs import (
    create_slab,
    open_readonly,
    readonly_mount,
    remove_slab,
    slab_name,
)
from streamerd.state import commands, events
from streamerd.state.core import Core
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.model import Model, Rules
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import Environments
from streamerd.workers.in_daemon.supervisor import Fleet
from streamerd.workers.threads import Closer

logger = logging.getLogger(__name__)

TURN_GAP_S: Final = 0.002
"""Turns begin at least so far apart: what happens between is decided, and announced, at once.

At 30 GB/s and eight ranks each block alone would be 17 messages; fetch workers have their next
block waiting meanwhile."""
KEEPS_READONLY_FROM: Final = 8192
"""With so many descriptors to be had, a second one of each slab is kept for clients: opening it
anew for each costs the loop more than all else that an open does for a resident shard."""
CLOSING_S: Final = 1.0
"""For how long the daemon's end waits until clients' files are closed."""
DESCRIPTORS_WAIT_S: Final = 1.0
"""A slab that cannot be handed out because too many files are open is tried again for so long:
those of sources close by themselves as soon as they are read, those of slabs do not."""
RECENT_FAILURES = 100
"""Failed shards that `status` remembers after their last lease ended."""


@dataclass(slots=True)
class Ticket:
    """An open or prefetch that awaits its answer."""

    session: str
    request_id: int
    total_bytes: int
    names: tuple[str, ...]
    """What the client calls the shards, in its order."""


class Failure(msgspec.Struct, frozen=True):
    """A shard that could not be brought in."""

    id: str
    size_bytes: int
    code: str
    message: str


class Service:
    """Owns core, fleet and slabs; `requests.py` feeds it what clients ask."""

    def __init__(self, settings: Settings, fleet: Fleet, instance: str) -> None:
        self.settings = settings
        self.fleet = fleet
        self.instance = instance
        rules = Rules(
            block_bytes=settings.block_bytes,
            # Each thread finds its next block waiting: one being read, one in the channel.
            slots=2 * fleet.slots,
            remote_slots=settings.connections,
            credentials_wait_s=settings.credentials_wait_s,
            lag_s=settings.lag_s,
            space_wait_s=settings.space_wait_s,
        )
        self.core = Core(settings.memory_limit_bytes, rules)
        self.backings: dict[ShardKey, Backing] = {}
        self.tickets: dict[LoadKey, Ticket] = {}
        self.failures: dict[str, Failure] = {}
        self.environments = Environments()
        self._closers: dict[int, Closer] = {}
        """One for each user: whose files hang in being closed holds up none but his own."""
        self._discarded: dict[int, list[int]] = {}
        """Clients' descriptors to be closed together, by user, when the loop comes to it."""
        self.sources = Sources()
        self.editions = Editions()
        self.lingering = Lingering()
        self.fetches = Fetches(
            settings, fleet, self.backings, self.environments, self.sources, self.post
        )
        self.proofs = Proofs(settings, fleet, self.backings, self.post)
        self.sessions: Sessions
        self.control: ControlSocket
        self.descriptors: DescriptorSocket
        self.is_comparing: Callable[[LoadKey], bool] = lambda _load: False
        """Whether a load's resident bytes are still compared with its files; see
        `comparisons.py`."""
        self._loop = asyncio.get_running_loop()
        self._events: list[events.AnyEvent] = []
        self._turn_due = False
        self._turned_s = 0.0
        self._readonly_mount = readonly_mount(settings.readonly_shm)
        self._keeps_readonly = resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= KEEPS_READONLY_FROM
        self._slabs_made = secrets.randbits(60)
        self._departures: list[tuple[tuple[ShardKey, ...], Callable[[], None]]] = []
        """Evicted shards, and whom to tell when their memory is free."""
        self._entered: list[ShardKey] = []
        """Shards that something was noted for since the last turn."""
        self._removed: list[ShardKey] = []
        """Shards whose slab was removed in this turn."""
        self.started_s = self.now_s

    @property
    def model(self) -> Model:
        """What the core knows, for reading."""
        return self.core.model

    @property
    def now_s(self) -> float:
        return self._loop.time()

    def attach(
        self, sessions: Sessions, control: ControlSocket, descriptors: DescriptorSocket
    ) -> None:
        """Say who carries messages and descriptors; before the first event."""
        self.sessions = sessions
        self.control = control
        self.descriptors = descriptors

    def discard(self, uid: int, descriptors: Sequence[int]) -> None:
        """Close descriptors of a user's files, elsewhere than in the loop."""
        if not self._discarded:
            self._loop.call_soon(self._close_discarded)
        self._discarded.setdefault(uid, []).extend(descriptors)

    def unclosed(self, uid: int) -> int:
        """How many descriptors of a user's files hang in being closed, or are about to be."""
        closer = self._closers.get(uid)
        return closer.unclosed if closer is not None else 0

    def _close_discarded(self) -> None:
        discarded, self._discarded = self._discarded, {}
        for uid, descriptors in discarded.items():
            closer = self._closers.get(uid)
            if closer is None:
                closer = self._closers[uid] = Closer(f"closing-{uid}")
            closer.close(descriptors)

    def post(self, event: events.AnyEvent) -> None:
        """Give an event to the core in the next turn, with all that happens until then."""
        self._events.append(event)
        if not self._turn_due:
            self._turn_due = True
            # At once after a pause: an open of what is resident waits for nothing.
            self._loop.call_at(self._turned_s + TURN_GAP_S, self.turn)

    def enter(self, key: ShardKey, backing: Backing) -> Backing:
        """Note what will stand behind a shard; forgotten again if the next turn opens no such."""
        self.backings[key] = backing
        self._entered.append(key)
        return backing

    def offer_source(self, key: ShardKey, pair: Pair) -> None:
        """Have what a shard can be read through; given up if the next turn needs no such."""
        self.sources.offer(key, pair)
        self._entered.append(key)

    def turn(self) -> None:
        """Let the core decide on what has happened, and carry out what it says."""
        entered, self._entered = self._entered, []
        self._turn_due = False
        self._turned_s = self.now_s
        happened, self._events = self._events, []
        for command in self.core.handle(happened):
            self._carry_out(command)
        for key in (*self._removed, *entered):
            # Not while carrying out: the shard may have been opened again in the same turn.
            shard = self.model.shards.get(key)
            if shard is None:
                self.backings.pop(key, None)
            if shard is None or not shard.sourced:
                self.sources.close(key)
        self._removed.clear()
        if len(self.environments) > len(self.model.loads):
            for digest in self.environments.keep_only(self.model.loads):
                self._forget(digest)
        self._tell_departures()

    def _forget(self, digest: str) -> None:
        """Have workers close what they opened with an environment that no load has any more."""
        self.fleet.broadcast(lambda job: jobs.Forget(job, digest), lambda: None)

    def when_gone(self, shards: tuple[ShardKey, ...], then: Callable[[], None]) -> None:
        """Call `then` once the memory of evicted shards is free, or somebody uses them again."""
        self._departures.append((shards, then))
        self._tell_departures()

    def _tell_departures(self) -> None:
        known = self.model.shards
        for departure in list(self._departures):
            shards, then = departure
            if not any(shard in known and not known[shard].loads for shard in shards):
                self._departures.remove(departure)
                then()

    def _carry_out(self, command: commands.AnyCommand) -> None:
        match command:
            case commands.FetchBlock():
                self.fetches.begin(command)
            case commands.Announce(load, ranges):
                for first in range(0, len(ranges), MAX_RANGES):
                    told = ranges[first : first + MAX_RANGES]
                    self.control.send(load.owner, messages.Granted(load.number, told))
            case commands.ReleaseBlocks():
                self._release(command)
            case commands.CreateSlab(shard, size_bytes):
                self._create(shard, size_bytes)
            case commands.RemoveSlab(shard):
                self._remove(shard)
            case commands.ReplaceSlab():
                self._replace(command)
            case commands.ProveBlocks(shard, start, stop):
                self.proofs.prove(shard, start, stop)
            case commands.CloseSource(shard):
                self.sources.close(shard)
            case commands.Admit():
                self._admit(command)
            case commands.ReportWaiting(load, needs, available, limit):
                logger.info(
                    "load waits owner=%s load=%d needs_bytes=%d available_bytes=%d limit_bytes=%d",
                    load.owner, load.number, needs, available, limit,
                )  # fmt: skip
                report = messages.Waiting(load.number, needs, available, limit)
                self.control.send(load.owner, report)
            case commands.FailShard():
                self._fail(command)
            case commands.AskCredentials(load):
                logger.info("credentials expired owner=%s load=%d", load.owner, load.number)
                self.control.send(load.owner, messages.CredentialsWanted(load.number))
            case commands.Reject(load, code, message):
                ticket = self.tickets.pop(load)
                self.control.send(ticket.session, messages.Failed(ticket.request_id, code, message))
            case commands.Finish(load):
                logger.info("prefetch done load=%d", load.number)
                self.post(events.LoadClosed(self.now_s, load))
            case _:
                assert_never(command)

    # --- slabs ----------------------------------------------------------------------------------

    def new_slab_name(self, uri: str, identity: str) -> str:
        """A name that no slab has had, of this daemon or of those before it."""
        self._slabs_made += 1
        return slab_name(self.instance, uri, identity, self._slabs_made)

    def _create(self, shard: ShardKey, size_bytes: int) -> None:
        backing = self.backings[shard]
        name = self.new_slab_name(shard.uri, shard.identity)
        try:
            self.attach_slab(backing, name, create_slab(name, size_bytes))
        except StreamerError as error:
            # Its first fetch fails with this, and so do the loads that wait for it.
            logger.error("slab not created uri=%s error=%s", backing.stored.uri, error)
            backing.slab_error = error

    def _remove(self, shard: ShardKey) -> None:
        """Unlink a slab that has nothing in it any more."""
        name, handle = self._detach(self.backings[shard])
        self._removed.append(shard)
        self.fetches.rates.pop(shard, None)
        if handle >= 0:
            for descriptor in self.fleet.lending.take_back(handle):
                _unlink(name, descriptor)
                os.close(descriptor)

    def attach_slab(self, backing: Backing, name: str, descriptor: int) -> None:
        """Have a slab stand behind a shard; what clients are given is opened while the name is new.

        Args:
            backing: of the shard.
            name: the slab's.
            descriptor: of the slab, open for writing; taken over.
        """
        backing.slab_name, backing.slab_fd, backing.slab_error = name, descriptor, None
        backing.slab = self.fleet.lending.put_slab(descriptor)
        if self._keeps_readonly:
            with contextlib.suppress(OSError):  # none to be had: each client's is opened for it
                backing.readonly_fd = open_readonly(descriptor, name, self._readonly_mount)

    def _detach(self, backing: Backing) -> tuple[str, int]:
        """Let a shard have no slab; gives name and handle of what it had."""
        if backing.readonly_fd >= 0:
            os.close(backing.readonly_fd)
            backing.readonly_fd = -1
        name, handle = backing.slab_name, backing.slab
        backing.slab_name, backing.slab, backing.slab_fd = "", -1, -1
        return name, handle

    def _replace(self, command: commands.ReplaceSlab) -> None:
        """Free a slab with all that is in it, which takes a while; first no worker has it open."""
        shard = command.shard
        name, handle = self._detach(self.backings[shard])
        self._create(shard, command.size_bytes)

        def closed() -> None:
            descriptors = self.fleet.lending.take_back(handle)
            freeing = self._loop.run_in_executor(None, self._free, name, descriptors)
            freeing.add_done_callback(lambda _done: freed())

        def freed() -> None:
            for start, stop in command.ranges:
                self.post(events.BlocksReleased(self.now_s, shard, start, stop))

        self.fleet.broadcast(lambda job: jobs.CloseSlab(job, handle), closed)

    def _free(self, name: str, descriptors: tuple[int, ...]) -> None:
        """Runs in a thread."""
        for descriptor in descriptors:
            _unlink(name, descriptor)
            if not self.lingering.keep(descriptor):
                os.close(descriptor)

    # --- workers --------------------------------------------------------------------------------

    def _release(self, command: commands.ReleaseBlocks) -> None:
        backing = self.backings[command.shard]
        backing.releases += 1
        start, _ = block_span(command.start, backing.stored.size_bytes, self.settings.block_bytes)
        size_bytes = self.model.shards[command.shard].bytes_of(command.start, command.stop)
        job = jobs.Punch(self.fleet.next_job(), backing.slab, start, start + size_bytes)
        self.fleet.submit(job, lambda answer: self._released(command, answer))

    def _released(self, command: commands.ReleaseBlocks, answer: jobs.Answer | None) -> None:
        if answer is None:
            self._release(command)
            return
        if isinstance(answer, jobs.JobFailed):
            uri = self.backings[command.shard].stored.uri
            logger.error("blocks not released uri=%s error=%s", uri, answer.message)
        event = events.BlocksReleased(self.now_s, command.shard, command.start, command.stop)
        self.post(event)

    # --- answers --------------------------------------------------------------------------------

    def _admit(self, command: commands.Admit) -> None:
        load = self.model.loads[command.load]
        ticket = self.tickets.pop(command.load)
        if load.prefetch:
            ids = tuple(shard_id(shard.key) for shard in load.shards)
            accepted = messages.Accepted(ticket.request_id, ids, ticket.total_bytes)
            self.control.send(ticket.session, accepted)
            return
        shards = tuple(
            messages.OpenedShard(
                name, self.backings[shard.key].stored.identity, shard.size_bytes, command.held
            )
            for name, shard in zip(ticket.names, load.shards, strict=True)
        )
        opened = messages.Opened(
            ticket.request_id,
            command.load.number,
            self.settings.block_bytes,
            shards,
            command.granted[:MAX_RANGES],
            command.resident_bytes,
            compared=not self.is_comparing(command.load),
        )
        self.control.send(ticket.session, opened)
        if rest := command.granted[MAX_RANGES:]:
            self._carry_out(commands.Announce(command.load, rest))
        self._hand_out_slabs(command.load, shards)

    def _hand_out_slabs(self, key: LoadKey, shards: tuple[messages.OpenedShard, ...]) -> None:
        session = self.sessions.get(key.owner)
        if session is None:
            return
        patience_ends_s = self.now_s + DESCRIPTORS_WAIT_S

        def open_slab(_load: int, index: int) -> OpenedSlab | None:
            load = self.model.loads.get(key)
            if load is None:
                return None  # closed before its turn came
            backing = self.backings[load.shards[index].key]
            if not backing.slab_name:
                self._tell_unhanded(key, index, backing.slab_error)
                return None
            if backing.readonly_fd >= 0:
                return OpenedSlab(backing.readonly_fd, close=False)
            try:
                opened = open_readonly(backing.slab_fd, backing.slab_name, self._readonly_mount)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE) or self.now_s < patience_ends_s:
                    raise
                self._tell_unhanded(key, index, _no_descriptor(backing.stored.uri))
                return None
            return OpenedSlab(opened, close=True)

        filled = [index for index, shard in enumerate(shards) if shard.size_bytes]
        self.descriptors.hand_out(session, key.number, filled, open_slab)

    def _tell_unhanded(self, key: LoadKey, index: int, error: StreamerError | None) -> None:
        """A slab cannot be had: the client waits for it, whether it wants a block or not."""
        if error is not None:
            failed = messages.ShardFailed(key.number, index, error.code, str(error))
            self.control.send(key.owner, failed)

    def _fail(self, command: commands.FailShard) -> None:
        load = self.model.loads.get(command.load)
        if load is None:
            return
        shard = load.shards[command.shard]
        uri = self.backings[shard.key].stored.uri
        logger.error("shard failed uri=%s code=%s %s", uri, command.code, command.message)
        self.failures[uri] = Failure(
            shard_id(shard.key), shard.size_bytes, command.code, command.message
        )
        while len(self.failures) > RECENT_FAILURES:
            self.failures.pop(next(iter(self.failures)))
        if not load.prefetch:
            told = messages.ShardFailed(
                command.load.number, command.shard, command.code, command.message
            )
            self.control.send(command.load.owner, told)

    # --- life -----------------------------------------------------------------------------------

    def try_slabs(self) -> None:
        """See that slabs can be made.

        Raises:
            StreamerError: no shared memory can be had here.
        """
        probe = self.new_slab_name("", "")
        descriptor = create_slab(probe, 0)
        _unlink(probe, descriptor)
        os.close(descriptor)

    def tick(self) -> None:
        """See to what nobody tells us of."""
        self.lingering.look()

    async def stop(self, grace_s: float) -> None:
        """End the workers; nothing happens in any slab from then on."""
        await self.fleet.stop(grace_s)
        self.sources.close_all()
        self._close_discarded()
        for closer in self._closers.values():
            await self._loop.run_in_executor(None, closer.end, CLOSING_S)
        self.lingering.close()
        logger.info("stopped pid=%d", os.getpid())


def _no_descriptor(uri: str) -> MemoryLimitError:
    return MemoryLimitError(
        f"{uri}: too many files are open in the daemon to hand its slab out; evict what nobody "
        "uses, or raise the daemon's limit (LimitNOFILE, `ulimit -n`)"
    )


def _unlink(name: str, descriptor: int) -> None:
    """Unlink a slab, if the name still is this object's: others may have put one there."""
    remove_slab(name, os.fstat(descriptor).st_ino)
