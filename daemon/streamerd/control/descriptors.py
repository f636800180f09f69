"""The descriptor socket in the daemon's asyncio loop: greetings, files in, slabs out.

This module owns framing, the descriptors of a packet until `Receiver` takes them, and the order in
which packets go to each client. One batch of slabs is sent at a time, and the next when the client
has answered `Got`. The module looks at no file, because even `fstat` could block if the file's
server does not answer.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, assert_never

from streamer_client.connecting.packet_socket import AGAIN_S, receive_packet
from streamer_client.contract.errors import ProtocolMismatch, RequestRefused, StreamerError
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Files,
    Got,
    Greeting,
    Packet,
    Refused,
    Slabs,
    Taken,
    decode_from_client,
    encode_packet,
)
from streamer_client.contract.limits import MAX_CLIENTS_PER_USER
from streamer_client.contract.messages import PROTOCOL
from streamerd import __version__
from streamerd.control.sessions import Session, Sessions

logger = logging.getLogger(__name__)

MAX_PACKETS_A_TURN: Final = 16
"""After this many packets of one client the loop does other work first."""
MAX_CLIENTS: Final = 2048
"""libzmq serves its clients from one thread, and aborts when it has no descriptor left for one."""
ACCEPTED_A_TURN: Final = 32
ROOM_WAIT_S: Final = 10.0
"""Seconds for which a client waits while others' files are examined, before its own are refused."""
ROOM_AGAIN_S: Final = 0.01
PAUSE_S: Final = 0.5
"""Seconds for which no connection is accepted after descriptors have run out."""
MAX_UNREAD_PACKETS: Final = 64
"""A client that leaves more answers than this unread is disconnected."""


Receiver = Callable[[Session, Files, list[int]], int]
"""Receives a batch and owns its descriptors from then on; returns how many files the transfer has
now. To refuse the transfer it raises a StreamerError, and owns the descriptors even so."""


class OpenedSlab(NamedTuple):
    """A descriptor of a slab, to be sent to a client."""

    descriptor: int
    close: bool
    """Whether the descriptor was opened for this client alone, and must be closed after it was
    sent."""


SlabOpener = Callable[[int, int], OpenedSlab | None]
"""Opens a slab for a client, by the numbers of the load and the shard; None if the load is gone."""


@dataclass(slots=True, eq=False)
class _Outgoing:
    """Packets and slabs that wait to be sent to one client."""

    packets: deque[Packet] = field(default_factory=deque)
    slabs: deque[tuple[int, tuple[int, ...], SlabOpener]] = field(default_factory=deque)
    """Batches of slabs: the load, its shards, and the opener that is called when they are sent."""
    awaiting: bool = False
    """Whether a batch was sent and not acknowledged yet."""
    writing: bool = False
    full_since_s: float = 0.0
    """Since when there is no room for the client's files, in the loop's time; 0 while there is."""
    timer: asyncio.TimerHandle | None = None


class DescriptorSocket:
    """Serves one listening socket.

    Args:
        sessions: the sessions; each connection begins one.
        receiver: receives the files that clients hand over.
        discard: has a user's descriptors closed, in another thread than the loop's.
        has_room: returns whether a client may hand over more files now; if not, it must wait.
    """

    def __init__(
        self,
        sessions: Sessions,
        receiver: Receiver,
        discard: Callable[[int, Sequence[int]], None],
        has_room: Callable[[Session], bool] = lambda _session: True,
    ) -> None:
        self._sessions = sessions
        self._receiver = receiver
        self._discard = discard
        self._has_room = has_room
        self._loop = asyncio.get_running_loop()
        self._listening: socket.socket | None = None
        self._outgoing: dict[str, _Outgoing] = {}

    def open(self, listening: socket.socket) -> None:
        """Serve a socket that listens; its owner closes it."""
        listening.setblocking(False)
        self._listening = listening
        self._loop.add_reader(listening, self._accept, listening)

    def close(self) -> None:
        """Stop serving; the sessions close their connections."""
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening = None
        for session in self._sessions:
            self.forget(session)

    # --- connections ----------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._pause(listening, error)
                return
            connection.setblocking(False)
            try:
                session = self._sessions.begin(connection)
            except OSError as error:
                logger.debug("event=connection_gone error=%r", error.strerror)
                connection.close()
                continue
            self._begin(session)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """Let new connections wait for a moment, since no descriptor is left for one."""
        logger.warning(
            "event=connection_not_accepted again_in_s=%g error=%r", PAUSE_S, error.strerror
        )
        self._loop.remove_reader(listening)
        self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        if self._listening is not None:
            self._loop.add_reader(self._listening, self._accept, self._listening)

    def _begin(self, session: Session) -> None:
        self._outgoing[session.name] = _Outgoing()
        try:
            self._refuse_too_many(session)
        except StreamerError as error:
            self._refuse(session, error)
            return
        self._loop.add_reader(session.connection, self._receive, session)
        self._send(session, Greeting(PROTOCOL, __version__, session.token, session.proof))

    def _refuse_too_many(self, session: Session) -> None:
        mine, all_of_them = self._sessions.of_user(session.uid), len(self._sessions)
        if mine > MAX_CLIENTS_PER_USER or all_of_them > MAX_CLIENTS:
            raise RequestRefused(
                f"user {session.uid} has {mine - 1} clients here already, all users "
                f"{all_of_them - 1}; {MAX_CLIENTS_PER_USER} and {MAX_CLIENTS} are the most"
            )

    def _refuse(self, session: Session, error: StreamerError) -> None:
        """Tell a client the error, and end its session, whose next packets make no sense."""
        logger.warning(
            "event=client_refused pid=%d uid=%d reason=%s", session.pid, session.uid, error
        )
        self._send(session, Refused(error.code, str(error)))
        self._sessions.end(session, "refused")

    def forget(self, session: Session) -> None:
        """Drop all that waits to be sent to a session that ended."""
        outgoing = self._outgoing.pop(session.name, None)
        if outgoing is None:
            return
        if outgoing.timer is not None:
            outgoing.timer.cancel()
        if session.connection.fileno() >= 0:
            self._loop.remove_reader(session.connection)
            self._loop.remove_writer(session.connection)

    # --- receiving ------------------------------------------------------------------------------

    def _receive(self, session: Session) -> None:
        for _ in range(MAX_PACKETS_A_TURN):
            if session.name not in self._outgoing:
                return  # the client's last packet ended the session
            if not self._has_room(session) and self._put_off(session):
                return
            try:
                data, descriptors, flags = receive_packet(session.connection)
            except BlockingIOError:
                return
            except OSError as error:
                self._sessions.end(session, f"connection broke: {error.strerror}")
                return
            if not data and not descriptors:
                self._sessions.end(session, "connection closed")
                return
            try:
                self._handle(session, data, descriptors, flags)
            except StreamerError as error:
                self._refuse(session, error)
                return

    def _put_off(self, session: Session) -> bool:
        """Leave a client's packets in the kernel for a moment; False if it waited too long."""
        outgoing, now_s = self._outgoing[session.name], self._loop.time()
        outgoing.full_since_s = outgoing.full_since_s or now_s
        if now_s - outgoing.full_since_s > ROOM_WAIT_S:
            outgoing.full_since_s = 0.0
            return False
        self._loop.remove_reader(session.connection)
        self._loop.call_later(ROOM_AGAIN_S, self._go_on, session)
        return True

    def _go_on(self, session: Session) -> None:
        if session.name in self._outgoing:
            if self._has_room(session):
                self._outgoing[session.name].full_since_s = 0.0
            self._loop.add_reader(session.connection, self._receive, session)

    def _handle(self, session: Session, data: bytes, descriptors: list[int], flags: int) -> None:
        try:
            packet = self._decoded(data, descriptors, flags)
        except BaseException:
            self._discard(session.uid, descriptors)
            raise
        match packet:
            case Files(transfer):
                self._take(session, packet, transfer, descriptors)
            case Got():
                self._got(session)
            case _:
                assert_never(packet)

    def _decoded(self, data: bytes, descriptors: list[int], flags: int) -> Files | Got:
        if flags & socket.MSG_CTRUNC:
            raise StreamerError(
                "descriptors were withheld on their way to the daemon: it has too many files open "
                "(LimitNOFILE), or a security module such as SELinux forbids passing them"
            )
        if flags & socket.MSG_TRUNC:
            raise ProtocolMismatch(f"a packet of more than {MAX_PACKET_BYTES} bytes was sent")
        packet = decode_from_client(data)
        due = 0
        if isinstance(packet, Files):
            due = sum(1 + file.direct for file in packet.files)
        if len(descriptors) != due or due > BATCH_DESCRIPTORS:
            raise ProtocolMismatch(
                f"{len(descriptors)} descriptors came where {due} were told; a batch has "
                f"{BATCH_DESCRIPTORS} at most"
            )
        return packet

    def _take(self, session: Session, packet: Files, transfer: int, descriptors: list[int]) -> None:
        try:
            count = self._receiver(session, packet, descriptors)
        except StreamerError as error:
            self._send(session, Refused(error.code, str(error), transfer))
        else:
            self._send(session, Taken(transfer, count))

    # --- sending --------------------------------------------------------------------------------

    def hand_out(
        self, session: Session, load: int, shards: Sequence[int], opener: SlabOpener
    ) -> None:
        """Send the slabs of these shards, a batch at a time."""
        outgoing = self._outgoing.get(session.name)
        if outgoing is None:
            return
        for first in range(0, len(shards), BATCH_DESCRIPTORS):
            batch = tuple(shards[first : first + BATCH_DESCRIPTORS])
            outgoing.slabs.append((load, batch, opener))
        self._flush(session)

    def _got(self, session: Session) -> None:
        outgoing = self._outgoing[session.name]
        if not outgoing.awaiting:
            raise ProtocolMismatch("the client acknowledged slabs that it was not sent")
        outgoing.awaiting = False
        self._flush(session)

    def _send(self, session: Session, packet: Packet) -> None:
        outgoing = self._outgoing.get(session.name)
        if outgoing is None:
            return
        outgoing.packets.append(packet)
        self._flush(session)
        if len(outgoing.packets) > MAX_UNREAD_PACKETS:
            self._sessions.end(session, "does not read the descriptor socket")

    def _flush(self, session: Session) -> None:
        """Send what can be sent now, and the rest when the connection has room for it."""
        outgoing = self._outgoing.get(session.name)
        if outgoing is None:
            return
        try:
            while outgoing.packets:
                session.connection.send(encode_packet(outgoing.packets[0]))
                outgoing.packets.popleft()
            while outgoing.slabs and not outgoing.awaiting:
                self._send_slabs(session, outgoing)
        except BlockingIOError:
            self._await_room(session, outgoing)
        except OSError as error:
            if error.errno in (errno.ETOOMANYREFS, errno.EMFILE, errno.ENFILE):
                self._await_descriptors(session, outgoing)
            else:
                logger.debug("event=packet_not_sent pid=%d error=%r", session.pid, error.strerror)
        else:
            self._await_nothing(session, outgoing)

    def _send_slabs(self, session: Session, outgoing: _Outgoing) -> None:
        load, shards, opener = outgoing.slabs[0]
        opened: dict[int, OpenedSlab] = {}
        try:
            for shard in shards:
                if (one := opener(load, shard)) is not None:
                    opened[shard] = one
            if opened:
                data = encode_packet(Slabs(load, tuple(opened)))
                descriptors = [one.descriptor for one in opened.values()]
                socket.send_fds(session.connection, [data], descriptors)
                outgoing.awaiting = True
        finally:
            for one in opened.values():
                if one.close:
                    os.close(one.descriptor)  # a file in shared memory, whose close never blocks
        outgoing.slabs.popleft()

    def _await_room(self, session: Session, outgoing: _Outgoing) -> None:
        if not outgoing.writing:
            outgoing.writing = True
            self._loop.add_writer(session.connection, self._flush, session)

    def _await_nothing(self, session: Session, outgoing: _Outgoing) -> None:
        if outgoing.writing:
            outgoing.writing = False
            self._loop.remove_writer(session.connection)

    def _await_descriptors(self, session: Session, outgoing: _Outgoing) -> None:
        if outgoing.timer is not None:
            outgoing.timer.cancel()
        outgoing.timer = self._loop.call_later(AGAIN_S, self._flush, session)
