"""Makes the parts of a daemon, and gives each the other parts that it needs.

This module holds no state of its own. `daemon.py` starts, stops and ticks the parts. Runs in the
daemon's loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from streamer_client.storage.remembered import MOST_LISTINGS, Remembered
from streamerd.answering.cache import Cache
from streamerd.answering.cache_requests import CacheRequests
from streamerd.answering.conversation import Body, Conversation
from streamerd.answering.files.comparisons import Comparisons
from streamerd.answering.files.doubts import Doubts
from streamerd.answering.files.handovers import Handovers
from streamerd.answering.files.local_files import LocalFiles
from streamerd.answering.loads import Loads
from streamerd.answering.objects import Objects
from streamerd.answering.openings import Openings
from streamerd.answering.prefetches import Prefetches
from streamerd.answering.requests import Replies, Requests
from streamerd.answering.rights import Rights
from streamerd.answering.status import Facts, status_document
from streamerd.answering.verification import Means
from streamerd.control.descriptors import DescriptorSocket
from streamerd.control.sessions import Session, Sessions
from streamerd.control.socket import ControlSocket
from streamerd.observe.metrics import Observed
from streamerd.observe.record import Holder
from streamerd.observe.report import report_document
from streamerd.observe.story import Story
from streamerd.observe.watch import Watch
from streamerd.reading.editions import Editions
from streamerd.reading.fetches import Fetches
from streamerd.reading.peer_reads import PEER_READS, PeerReads
from streamerd.reading.proofs import Proofs
from streamerd.reading.runs import Runs
from streamerd.reading.sources import Sources
from streamerd.reading.totals import ReadTotals, kind_of
from streamerd.service.answers import Answers
from streamerd.service.carrying import Service
from streamerd.service.closing import Closing
from streamerd.service.shards import Shards
from streamerd.service.slabs import Slabs
from streamerd.service.turns import Turns
from streamerd.settings.config import Settings
from streamerd.state.commands import AnyCommand
from streamerd.state.core import Core
from streamerd.state.events import AnyEvent, ShardKey
from streamerd.state.model import Rules
from streamerd.workers.in_daemon.environments import Environments
from streamerd.workers.in_daemon.supervisor import Workers

if TYPE_CHECKING:
    from streamerd.peering.beside import Beside

MakeControl = Callable[[str, Sessions], ControlSocket]
"""Makes the control socket at a path."""
MakeDescriptors = Callable[[Sessions, Handovers, Closing], DescriptorSocket]
"""Makes the descriptor socket."""


def descriptor_socket(
    sessions: Sessions, handovers: Handovers, closing: Closing
) -> DescriptorSocket:
    """The descriptor socket of a real daemon."""
    return DescriptorSocket(sessions, handovers.take, closing.discard, handovers.has_room)


def rules_of(settings: Settings, slots: int) -> Rules:
    """Make the core's rules from the settings.

    Args:
        settings: the daemon's settings.
        slots: how many threads read files, in all workers together.
    """
    return Rules(
        block_bytes=settings.block_bytes,
        # Each thread has two blocks: one that it reads, and the next one, which waits in the
        # channel.
        slots=2 * slots,
        remote_slots=settings.connections + (PEER_READS if settings.fleet else 0),
        credentials_wait_s=settings.credentials_wait_s,
        lag_s=settings.lag_s,
        space_wait_s=settings.space_wait_s,
    )


class Parts:
    """All parts of one daemon.

    Args:
        settings: the daemon's settings.
        workers: the daemon's workers.
        instance: the instance, which is a part of the names of this daemon's slabs.
        config: makes the body of `Config`.
        make_sessions: makes the sessions; called with the function to call when a session ends.
        make_control: makes the control socket.
        make_descriptors: makes the descriptor socket.
    """

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        instance: str,
        config: Body,
        make_sessions: Callable[[Callable[[Session], None]], Sessions] = Sessions,
        make_control: MakeControl = ControlSocket,
        make_descriptors: MakeDescriptors = descriptor_socket,
    ) -> None:
        self.settings = settings
        self.workers = workers
        self.instance = instance
        self.sessions = make_sessions(self._gone)
        self.control = make_control(settings.socket, self.sessions)
        self.closing = Closing()
        self.handovers = Handovers(
            workers, self.closing.discard, self.closing.unclosed, settings.source_wait_s
        )
        self.descriptors = make_descriptors(self.sessions, self.handovers, self.closing)
        self.turns = Turns(Core(settings.memory_limit_bytes, rules_of(settings, workers.slots)))
        self.model = self.turns.model
        self._make_memory()
        self._make_reading()
        self._make_service()
        self._make_watch()
        self._make_peering()
        self._make_answering(config)

    def _make_memory(self) -> None:
        """Make the parts that own shards, slabs, and the descriptors to read shards through."""
        settings, turns = self.settings, self.turns
        self.sources = Sources()
        self.editions = Editions()
        self.environments = Environments()
        self.shards = Shards(self.model, self.sources, settings.block_bytes)
        self.backings = self.shards.backings
        self.slabs = Slabs(settings, self.instance, self.workers, self.backings, self.model, turns)

    def _make_reading(self) -> None:
        """Make the parts that have sources read, and that compare sources with blocks in memory."""
        settings, turns, workers = self.settings, self.turns, self.workers
        self.read_totals = ReadTotals()
        self.listings: Remembered[str, bool] = Remembered(MOST_LISTINGS)
        self.comparisons = Comparisons(
            self.model, turns, self.backings, self.editions, workers, self.control.send,
            settings.source_wait_s,
        )  # fmt: skip
        self.doubts = Doubts(
            self.model, self.backings, self.sources, workers, self.read_totals, settings,
            self.comparisons,
        )  # fmt: skip
        self.peer_reads = PeerReads(settings.connections) if settings.fleet else None
        self.fetches = Fetches(
            settings, workers, self.backings, self.environments, self.sources, turns.post,
            self.doubts.is_outdated, self.read_totals, self.listings, self.peer_reads,
        )  # fmt: skip
        self.runs = Runs(
            settings.block_bytes, workers, self.backings, self.environments, self.fetches.begin,
            turns.post,
        )  # fmt: skip
        self.proofs = Proofs(settings, workers, self.backings, turns.post)

    def _make_service(self) -> None:
        """Make the part that carries the core's commands out."""
        turns = self.turns
        self.answers = Answers(
            self.model, turns, self.shards, self.slabs, self.sessions, self.control.send,
            self.descriptors.hand_out, self.comparisons.waits, self.settings.block_bytes,
        )  # fmt: skip
        service = Service(
            self.model, turns, self.shards, self.slabs, self.answers, self.sources, self.fetches,
            self.runs, self.proofs, self.environments, self.workers,
        )  # fmt: skip
        turns.attach(service.carry_out)

    def _make_watch(self) -> None:
        """Make the part that keeps the records of loads."""
        clock = asyncio.get_running_loop().time
        self.watch = Watch(self.model, self._holder, self._called, Story(), clock)
        self.turns.watch(self.watch.turned)
        self.read_totals.on_read = self.watch.read

    def _make_peering(self) -> None:
        """Make the part that serves other nodes, if there is a fleet."""
        self.beside: Beside | None = None
        if self.peer_reads is None:
            return
        from streamerd.peering.beside import Beside  # noqa: PLC0415  only a fleet imports it

        self.beside = beside = Beside(
            self.settings, self.workers, self.peer_reads, self.model, self.shards, self.slabs
        )
        watch = self.watch.turned

        def turned(happened: Sequence[AnyEvent], decided: Sequence[AnyCommand]) -> None:
            watch(happened, decided)
            beside.turned(happened)

        self.turns.watch(turned)

    def _holder(self, owner: str) -> Holder:
        """The owner of a load: a client, or this daemon for a prefetch."""
        session = self.sessions.get(owner)
        if session is None:
            return Holder(os.getpid(), os.geteuid(), "prefetch")
        return Holder(session.pid, session.uid, session.label)

    def _called(self, key: ShardKey) -> tuple[str, str]:
        """A shard's URI and the kind of its source."""
        uri = self.backings[key].stored.uri
        return uri, kind_of(uri)

    def _make_answering(self, config: Body) -> None:
        """Make the parts that handle clients' messages."""
        model, turns, block_bytes = self.model, self.turns, self.settings.block_bytes
        self.replies = replies = Replies(self.control.send)
        files = LocalFiles(
            model, self.shards, self.editions, self.doubts, self.comparisons, block_bytes
        )
        cache = Cache(model, turns, self.shards, self.sessions, files)
        rights = Rights(model, self.environments, other_nodes=bool(self.settings.fleet))
        objects = Objects(
            self.shards, self.environments, rights, self.workers, self.listings, block_bytes
        )
        openings = Openings(turns, objects, files, self.handovers, self.answers, self.environments)
        self._loads = Loads(
            replies, model, turns, openings, self.answers, self.environments, block_bytes
        )
        self.prefetches = Prefetches(
            replies, model, turns, openings, self.answers, cache, block_bytes
        )
        means = Means(
            model, turns, self.backings, self.workers, self.fetches.pace, block_bytes,
            self.settings.source_wait_s,
        )  # fmt: skip
        self._cache_requests = CacheRequests(replies, cache, files, self.handovers, means)
        self.facts = Facts(
            self.settings.socket, self.instance, turns, model, self.shards, self.slabs,
            self.fetches, self.read_totals, self.workers, self.sessions,
            self.peer_reads.totals if self.peer_reads else None, self.settings.fleet,
        )  # fmt: skip
        conversation = Conversation(
            replies,
            self.sessions,
            self.settings.heartbeat_s,
            self._status,
            config,
            self._report,
        )
        self.requests = Requests(replies, turns.decide)
        for part in (conversation, self._loads, self.prefetches, self._cache_requests):
            part.register(self.requests)

    def _status(self) -> dict[str, object]:
        return status_document(self.facts).body()

    def _report(self) -> dict[str, object]:
        return report_document(self.watch, self.turns.now_s, time.time()).body()

    def observed(self) -> Observed:
        """Collect the parts that metrics are read from."""
        started_at_s = time.time() - (self.turns.now_s - self.turns.started_s)
        return Observed(self.facts, self.watch, self.replies.refused, started_at_s)

    def _gone(self, session: Session) -> None:
        """Tell all parts that a client left or died."""
        self.control.forget(session)
        self.descriptors.forget(session)
        self._cache_requests.gone(session)
        self.handovers.forget(session)
        self._loads.gone(session)

    async def stop(self, grace_s: float) -> None:
        """End the workers, so that no slab changes any more, and close files and sockets."""
        if self.beside is not None:
            await self.beside.stop()
        await self.workers.stop(grace_s)
        self.sources.close_all()
        await self.closing.end()
        self.slabs.close()
