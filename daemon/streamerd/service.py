"""Carries the core's commands out and turns what happens into its events.

The one place where decisions meet sockets, workers and shared memory. Runs in the daemon's loop;
what one turn of the loop learns is given to the core at once, so that clients hear of it in one
message.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, assert_never

import msgspec

from streamer_client.contract import messages
from streamer_client.contract.errors import StreamerError
from streamer_client.contract.layout import block_span
from streamer_client.contract.socket import instance_of
from streamerd.backing import Backing
from streamerd.config import Settings
from streamerd.control.peers import Peers
from streamerd.control.socket import ControlSocket
from streamerd.environments import Environments
from streamerd.fetches import Fetches
from streamerd.proofs import Proofs
from streamerd.shm.slabs import create_slab, remove_slab, slab_name
from streamerd.state import commands, events
from streamerd.state.core import Core
from streamerd.state.events import LoadKey, ShardKey
from streamerd.state.model import Model, Rules
from streamerd.workers import jobs
from streamerd.workers.supervisor import Fleet

logger = logging.getLogger(__name__)

TURN_GAP_S: Final = 0.002
"""Turns begin at least so far apart: what happens between is decided, and announced, at once.

At 30 GB/s and eight ranks each block alone would be 17 messages; fetch workers have their next
block waiting meanwhile."""
RECENT_FAILURES = 100
"""Failed shards that `status` remembers after their last lease ended."""


@dataclass(slots=True)
class Ticket:
    """An open or prefetch that awaits its answer."""

    peer: str
    request_id: int
    total_bytes: int


class Failure(msgspec.Struct, frozen=True):
    """A shard that could not be brought in."""

    size_bytes: int
    code: str
    message: str


class Service:
    """Owns core, fleet and slabs; `requests.py` feeds it what clients ask."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self.settings = settings
        self.fleet = fleet
        self.instance = instance_of(settings.socket)
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
        self.fetches = Fetches(settings, fleet, self.backings, self.environments, self.post)
        self.proofs = Proofs(settings, fleet, self.backings, self.post)
        self.peers: Peers
        self.control: ControlSocket
        self._loop = asyncio.get_running_loop()
        self._events: list[events.AnyEvent] = []
        self._turn_due = False
        self._turned_s = 0.0
        self._slabs_made = secrets.randbits(60)
        self._departures: list[tuple[tuple[ShardKey, ...], Callable[[], None]]] = []
        """Evicted shards, and whom to tell when their memory is free."""
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

    def attach(self, control: ControlSocket, peers: Peers) -> None:
        """Say who carries messages; before the first event."""
        self.control = control
        self.peers = peers

    def post(self, event: events.AnyEvent) -> None:
        """Give an event to the core in the next turn, with all that happens until then."""
        self._events.append(event)
        if not self._turn_due:
            self._turn_due = True
            # At once after a pause: an open of what is resident waits for nothing.
            self._loop.call_at(self._turned_s + TURN_GAP_S, self.turn)

    def turn(self) -> None:
        """Let the core decide on what has happened, and carry out what it says."""
        self._turn_due = False
        self._turned_s = self.now_s
        happened, self._events = self._events, []
        for command in self.core.handle(happened):
            self._carry_out(command)
        for shard in self._removed:
            # Not while carrying out: the shard may have been opened again in the same turn.
            if shard not in self.model.shards:
                self.backings.pop(shard, None)
        self._removed.clear()
        if len(self.environments) > len(self.model.loads):
            self.environments.keep(self.model.loads)
        self._tell_departures()

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
                self.control.send(load.owner, messages.Granted(load.number, ranges))
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
                self.control.send(ticket.peer, messages.Failed(ticket.request_id, code, message))
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
        backing.slab = self.new_slab_name(shard.uri, shard.identity)
        try:
            create_slab(backing.slab, size_bytes)
        except StreamerError as error:
            # The first fetch fails on the missing object, and with it the loads that wait for it.
            logger.error("slab not created uri=%s error=%s", shard.uri, error)

    def _remove(self, shard: ShardKey) -> None:
        backing = self.backings[shard]
        slab, backing.slab = backing.slab, ""
        self._removed.append(shard)
        self.fetches.rates.pop(shard, None)
        remove_slab(slab)
        self.fleet.broadcast(lambda job: jobs.CloseSlab(job, slab), lambda: None)

    def _replace(self, command: commands.ReplaceSlab) -> None:
        """Unlink in a worker: freeing gigabytes takes a while. First nobody of us has it open."""
        shard = command.shard
        slab = self.backings[shard].slab
        self._create(shard, command.size_bytes)

        def unlink() -> None:
            self.fleet.submit(jobs.Unlink(self.fleet.next_job(), slab), unlinked)

        def unlinked(answer: jobs.Answer | None) -> None:
            if answer is None:
                unlink()
                return
            for start, stop in command.ranges:
                self.post(events.BlocksReleased(self.now_s, shard, start, stop))

        self.fleet.broadcast(lambda job: jobs.CloseSlab(job, slab), unlink)

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
        if isinstance(answer, jobs.Failed):
            logger.error("blocks not released shard=%s error=%s", command.shard.uri, answer.message)
        event = events.BlocksReleased(self.now_s, command.shard, command.start, command.stop)
        self.post(event)

    # --- answers --------------------------------------------------------------------------------

    def _admit(self, command: commands.Admit) -> None:
        load = self.model.loads[command.load]
        ticket = self.tickets.pop(command.load)
        if load.hold_required:
            uris = tuple(shard.key.uri for shard in load.shards)
            answer: messages.Message = messages.Accepted(
                ticket.request_id, uris, ticket.total_bytes
            )
        else:
            answer = messages.Opened(
                ticket.request_id,
                command.load.number,
                self.settings.block_bytes,
                tuple(
                    messages.OpenedShard(
                        shard.key.uri,
                        shard.key.identity,
                        self.backings[shard.key].slab,
                        shard.size_bytes,
                        command.held,
                    )
                    for shard in load.shards
                ),
                command.granted,
                command.resident_bytes,
            )
        self.control.send(ticket.peer, answer)

    def _fail(self, command: commands.FailShard) -> None:
        load = self.model.loads.get(command.load)
        if load is None:
            return
        shard = load.shards[command.shard]
        logger.error("shard failed uri=%s code=%s %s", shard.key.uri, command.code, command.message)
        failure = Failure(shard.size_bytes, command.code, command.message)
        self.failures[shard.key.uri] = failure
        while len(self.failures) > RECENT_FAILURES:
            self.failures.pop(next(iter(self.failures)))
        if not load.hold_required:
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
        create_slab(probe, 0)
        remove_slab(probe)

    async def stop(self, grace_s: float) -> None:
        """End the workers; nothing happens in any slab from then on."""
        await self.fleet.stop(grace_s)
        logger.info("stopped pid=%d", os.getpid())
