"""Starts the fleet's process beside the daemon, and starts it again when it ends.

This module passes the process's questions to `lookups.py` and its news of members to the fetch
workers. While the process does not run, everything is read from the store, so no load ever waits
for it. Runs in the daemon's loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Sequence
from typing import Final, assert_never

from streamer_client.contract.errors import StreamerError
from streamerd.peering.lookups import Lookups, Reply
from streamerd.peering.messages import (
    Begin,
    Fellows,
    Got,
    Look,
    NotHeld,
    Tally,
    from_process,
)
from streamerd.reading.peer_reads import PeerReads
from streamerd.service.shards import Shards
from streamerd.service.slabs import Slabs
from streamerd.service.views import ModelView
from streamerd.settings.config import Settings
from streamerd.settings.fleet import terms_of
from streamerd.state.events import AnyEvent
from streamerd.workers.frames import frame
from streamerd.workers.in_daemon.channel import Channel
from streamerd.workers.in_daemon.spawning import Process
from streamerd.workers.in_daemon.supervisor import Workers
from streamerd.workers.jobs import TellFleet

logger = logging.getLogger(__name__)

MODULE: Final = "streamerd.peering.process"
JOIN_S: Final = 5.0
"""Seconds for which reads wait for the first list of members. Otherwise nodes that start together
would all read from the store until they know each other."""
MOST_ON_THEIR_WAY: Final = 64
"""The most descriptors that are sent to the process and not yet received. Beyond it peers are told
to ask again, since the daemon needs its limited open files for clients."""
BACKOFF_S: Final = (0.5, 2.0, 10.0, 30.0)
"""Pauses in seconds before the process is started again, one for each failure in a row. Once the
process knows members, the next pause is the first one again."""


class Beside:
    """The fleet's process, as the daemon sees it.

    Args:
        settings: the daemon's settings.
        workers: the workers, which read from peers, and whose spawner starts the process.
        reads: the reads from peers, where members and figures are noted.
        model: tells which blocks are resident.
        shards: the backings of the shards.
        slabs: opens slabs for reading.
    """

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        reads: PeerReads,
        model: ModelView,
        shards: Shards,
        slabs: Slabs,
    ) -> None:
        self._terms = terms_of(settings)
        options = ("--log-level", settings.log_level, "--log-format", settings.log_format)
        self._options = options
        self._workers = workers
        self._reads = reads
        self._totals = reads.totals
        self._lookups = Lookups(
            model, shards, slabs, reads.from_store, settings.block_bytes, self._send
        )
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._process: Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failures = 0
        self._fds: dict[int, int] = {}
        """Descriptors on their way to the process, by the number of their answer."""
        self._before = Tally(0, {}, 0)
        """Sums of the figures of all processes that have ended."""
        self._now = Tally(0, {}, 0)
        self._stopping = False

    def start(self) -> None:
        """Start the process; reads wait a little until it knows the members."""
        self._loop.call_later(JOIN_S, self._reads.open)
        self._start_soon()

    def _start_soon(self) -> None:
        self._timer = None
        self._starting = self._loop.create_task(self._start())

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await self._workers.spawner.spawn(theirs, self._options, MODULE)
            except (OSError, StreamerError) as error:
                ours.close()
                self._again(f"cannot be started: {error}")
                return
            except BaseException:
                ours.close()
                raise
        self._process = process
        self._channel = Channel(ours, self._received, self._lost)
        self._channel.send(frame(Begin(self._terms)))
        self._totals.serving = True

    async def stop(self) -> None:
        """End the process; the spawner kills it if it does not."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        self._let_go()

    def turned(self, happened: Sequence[AnyEvent]) -> None:
        """Pass the events of a turn of the core to the questions that wait for blocks."""
        self._lookups.turned(happened)

    # --- messages -------------------------------------------------------------------------------

    def _received(self, body: bytes) -> None:
        match from_process.decode(body):
            case Look() as look if len(self._fds) >= MOST_ON_THEIR_WAY:
                self._send(Reply(NotHeld(look.number, awaited=True, known=True, coming=True)))
            case Look() as look:
                self._lookups.look(look)
            case Got(number):
                fd = self._fds.pop(number, -1)
                if fd >= 0:
                    os.close(fd)
            case Fellows(me, members, error):
                self._failures = 0
                self._totals.members_error = error
                if (me, members) != (self._totals.me, self._totals.members):
                    self._know(me, members)
            case Tally() as tally:
                self._now = tally
                self._count()
            case unknown:
                assert_never(unknown)

    def _send(self, reply: Reply) -> None:
        if self._channel is None:
            if reply.fd >= 0:
                os.close(reply.fd)
            return
        if reply.fd < 0:
            self._channel.send(frame(reply.message))
            return
        self._fds[reply.message.number] = reply.fd
        self._channel.send(frame(reply.message, 1), (reply.fd,))

    def _know(self, me: str, members: frozenset[str]) -> None:
        self._totals.me, self._totals.members = me, members
        self._workers.tell(TellFleet(self._terms, me, members))
        if members:
            self._reads.open()

    def _count(self) -> None:
        before, now = self._before, self._now
        self._totals.sent_bytes = before.sent_bytes + now.sent_bytes
        self._totals.answers = Counter(before.answers) + Counter(now.answers)
        self._totals.connections = now.connections

    # --- its end --------------------------------------------------------------------------------

    def _lost(self) -> None:
        self._let_go()
        self._again("ended")

    def _let_go(self) -> None:
        """Close everything that belongs to the process, which has ended or must end."""
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._lookups.forget()
        fds, self._fds = self._fds, {}
        for fd in fds.values():
            os.close(fd)
        totals = self._totals
        self._before = Tally(totals.sent_bytes, dict(totals.answers), 0)
        self._now = Tally(0, {}, 0)
        totals.serving, totals.connections = False, 0

    def _again(self, why: str) -> None:
        if self._stopping:
            return
        if self._process is not None:
            self._process.kill()
            self._process = None
        self._know("", frozenset())
        self._totals.members_error = ""
        pause_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self._totals.restarts += 1
        logger.warning(
            "event=fleet_process_ended why=%r restart_in_s=%g effect=%r",
            why, pause_s, "loads read the store meanwhile",
        )  # fmt: skip
        self._timer = self._loop.call_later(pause_s, self._start_soon)
