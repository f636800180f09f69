"""Tells clients what the core decided about their loads.

This module owns the tickets: opens and prefetches that are answered once the core has decided. It
sends messages on the control socket and has slabs handed out on the descriptor socket. Runs in the
daemon's loop.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from streamer_client.contract import messages
from streamer_client.contract.errors import MemoryLimitError, StreamerError
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.limits import MAX_RANGES
from streamerd.control.descriptors import OpenedSlab, SlabOpener
from streamerd.control.sessions import Session, Sessions
from streamerd.reading.backing import shard_id
from streamerd.service.shards import Shards
from streamerd.service.slabs import Slabs
from streamerd.service.views import Events, ModelView
from streamerd.state import commands
from streamerd.state.events import LoadKey

logger = logging.getLogger(__name__)

DESCRIPTORS_WAIT_S: Final = 1.0
"""Seconds for which handing out a slab is retried if too many files are open. Waiting may help,
since descriptors of sources are closed as soon as the sources are read."""

Send = Callable[[str, messages.Message], object]
"""Sends a message to the session of this name."""


class HandOut(Protocol):
    """The call by which slabs are sent to a client; `DescriptorSocket.hand_out` is one."""

    def __call__(
        self, session: Session, load: int, shards: Sequence[int], opener: SlabOpener
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Ticket:
    """An open or prefetch that awaits its answer."""

    session: str
    request_id: int
    total_bytes: int
    names: tuple[str, ...]
    """The client's names for the shards, in the client's order."""


class Answers:
    """Tells clients what was decided.

    Args:
        model: the loads.
        events: tells the time.
        shards: the backings of the shards; remembers those that fail.
        slabs: opens slabs for clients.
        sessions: the connected clients.
        send: sends messages.
        hand_out: sends slabs.
        is_comparing: returns whether a load's resident bytes are still compared with its files.
        block_bytes: size of a block.
    """

    def __init__(
        self,
        model: ModelView,
        events: Events,
        shards: Shards,
        slabs: Slabs,
        sessions: Sessions,
        send: Send,
        hand_out: HandOut,
        is_comparing: Callable[[LoadKey], bool],
        block_bytes: int,
    ) -> None:
        self._model = model
        self._events = events
        self._shards = shards
        self._slabs = slabs
        self._sessions = sessions
        self._send = send
        self._hand_out = hand_out
        self._is_comparing = is_comparing
        self._block_bytes = block_bytes
        self._tickets: dict[LoadKey, Ticket] = {}

    # --- tickets --------------------------------------------------------------------------------

    def expect(self, load: LoadKey, ticket: Ticket) -> None:
        """Note that a request waits for the core's decision on this load."""
        self._tickets[load] = ticket

    def forget(self, load: LoadKey) -> None:
        """Drop a load's ticket, since no request waits for its answer any more."""
        self._tickets.pop(load, None)

    @property
    def awaited(self) -> frozenset[LoadKey]:
        """The loads whose requests wait for their answer."""
        return frozenset(self._tickets)

    # --- decisions ------------------------------------------------------------------------------

    def admit(self, command: commands.Admit) -> None:
        """Answer the request of a load or prefetch that the core admitted."""
        load = self._model.loads[command.load]
        ticket = self._tickets.pop(command.load)
        if load.prefetch:
            ids = tuple(shard_id(shard.key) for shard in load.shards)
            accepted = messages.Accepted(ticket.request_id, ids, ticket.total_bytes)
            self._send(ticket.session, accepted)
            return
        backings = self._shards.backings
        shards = tuple(
            messages.OpenedShard(
                name, backings[shard.key].stored.identity, shard.size_bytes, command.held
            )
            for name, shard in zip(ticket.names, load.shards, strict=True)
        )
        opened = messages.Opened(
            ticket.request_id,
            command.load.number,
            self._block_bytes,
            shards,
            command.granted[:MAX_RANGES],
            command.resident_bytes,
            compared=not self._is_comparing(command.load),
        )
        self._send(ticket.session, opened)
        self.announce(command.load, command.granted[MAX_RANGES:])
        self._hand_out_slabs(command.load, shards)

    def announce(self, load: LoadKey, ranges: tuple[BlockRange, ...]) -> None:
        """Tell a client that its load may read these blocks."""
        if len(ranges) <= MAX_RANGES:
            if ranges:
                self._send(load.owner, messages.Granted(load.number, ranges))
            return
        for first in range(0, len(ranges), MAX_RANGES):
            told = ranges[first : first + MAX_RANGES]
            self._send(load.owner, messages.Granted(load.number, told))

    def report_waiting(self, command: commands.ReportWaiting) -> None:
        """Tell a client that its load waits for memory, and log that."""
        load = command.load
        figures = command.needs_bytes, command.available_bytes, command.limit_bytes
        logger.info(
            "event=load_waits owner=%s load=%d needs_bytes=%d available_bytes=%d limit_bytes=%d",
            load.owner, load.number, *figures,
        )  # fmt: skip
        self._send(load.owner, messages.Waiting(load.number, *figures))

    def ask_credentials(self, load: LoadKey) -> None:
        """Ask a client for new credentials, since a store says that its load's have expired."""
        logger.info("event=credentials_expired owner=%s load=%d", load.owner, load.number)
        self._send(load.owner, messages.CredentialsWanted(load.number))

    def reject(self, command: commands.Reject) -> None:
        """Answer the request of a load or prefetch that the core refused."""
        ticket = self._tickets.pop(command.load)
        failed = messages.Failed(ticket.request_id, command.code, command.message)
        self._send(ticket.session, failed)

    def fail(self, command: commands.FailShard) -> None:
        """Tell a client that a shard of its load cannot be brought in."""
        load = self._model.loads.get(command.load)
        if load is None:
            return
        shard = load.shards[command.shard]
        code, message = command.code, command.message
        uri = self._shards.note_failure(shard.key, shard.size_bytes, code, message)
        logger.error("event=shard_failed uri=%s code=%s error=%s", uri, code, message)
        if not load.prefetch:
            self._tell_failed(command.load, command.shard, code, message)

    def _tell_failed(self, load: LoadKey, shard: int, code: str, message: str) -> None:
        self._send(load.owner, messages.ShardFailed(load.number, shard, code, message))

    # --- slabs ----------------------------------------------------------------------------------

    def _hand_out_slabs(self, key: LoadKey, shards: Sequence[messages.OpenedShard]) -> None:
        session = self._sessions.get(key.owner)
        if session is None:
            return
        until_s = self._events.now_s + DESCRIPTORS_WAIT_S
        filled = [index for index, shard in enumerate(shards) if shard.size_bytes]
        self._hand_out(
            session, key.number, filled, lambda _load, index: self._open_slab(key, index, until_s)
        )

    def _open_slab(self, key: LoadKey, index: int, until_s: float) -> OpenedSlab | None:
        """Open one slab for a client when its turn to be sent has come."""
        load = self._model.loads.get(key)
        if load is None:
            return None  # the load was closed before its turn came
        backing = self._shards.backings[load.shards[index].key]
        if not backing.slab_name:
            self._tell_unhanded(key, index, backing.slab_error)
            return None
        try:
            return self._slabs.opened_for_client(backing)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or self._events.now_s < until_s:
                raise
            self._tell_unhanded(key, index, _no_descriptor(backing.stored.uri))
            return None

    def _tell_unhanded(self, key: LoadKey, index: int, error: StreamerError | None) -> None:
        """Tell a client that a slab cannot be opened; it waits for each slab of its load."""
        if error is not None:
            self._tell_failed(key, index, error.code, str(error))


def _no_descriptor(uri: str) -> MemoryLimitError:
    return MemoryLimitError(
        f"{uri}: too many files are open in the daemon to hand its slab out; evict what nobody "
        "uses, or raise the daemon's limit (LimitNOFILE, `ulimit -n`)"
    )
