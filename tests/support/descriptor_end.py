"""A stand-in daemon's end of the descriptor socket: greetings, files taken, slabs handed out.

Owns its listening socket, the connections, and every descriptor that came through them. The
stand-in's thread serves it; the test's thread changes the manners and looks at what arrived.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import zmq

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    TOKEN_BYTES,
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
from streamer_client.contract.messages import PROTOCOL
from streamer_client.contract.socket import descriptor_socket

RECEIVED_DESCRIPTORS: Final = 253
"""The value of SCM_MAX_FD of Linux."""


@dataclass
class Manners:
    """The behaviour of the stand-in on the descriptor socket; may be changed while it runs."""

    protocol: int = PROTOCOL
    greets: bool = True
    """Whether clients are greeted; without it they wait until it is set."""
    refuse_client: StreamerError | None = None
    refuse_files: StreamerError | None = None
    takes_files: bool = True
    """Whether batches of files are acknowledged; without it they wait until it is set."""
    hands_out: bool = True
    """Whether slabs are sent; without it they are kept until it is set."""
    slab_batch: int = BATCH_DESCRIPTORS


class HandedPair(NamedTuple):
    """A file that a client handed over: its name, and one or two descriptors."""

    name: str
    fd: int
    direct_fd: int | None


class Arrived(NamedTuple):
    """A packet of a client, and how many descriptors came with it."""

    packet: Packet
    descriptors: int


@dataclass(eq=False)
class Session:
    """One client's connection."""

    connection: socket.socket
    token: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))
    proof: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))
    greeted: bool = False
    living: bool = True
    transfers: dict[int, list[HandedPair]] = field(default_factory=dict)
    unanswered: deque[Packet] = field(default_factory=deque)
    """Acknowledgements that are held back."""
    slabs: deque[tuple[Slabs, list[int]]] = field(default_factory=deque)
    awaiting: bool = False
    """Whether a batch of slabs was sent and is not acknowledged yet."""

    def drop(self, transfer: int) -> None:
        """Close the files of a transfer."""
        for pair in self.transfers.pop(transfer, ()):
            os.close(pair.fd)
            if pair.direct_fd is not None:
                os.close(pair.direct_fd)

    def hang_up(self) -> None:
        """End the sending direction, for which a client waits after `Goodbye`."""
        with contextlib.suppress(OSError):  # raised if the client did not wait
            self.connection.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        self.living = False
        self.connection.close()
        for transfer in list(self.transfers):
            self.drop(transfer)
        for _, descriptors in self.slabs:
            for descriptor in descriptors:
                os.close(descriptor)
        self.slabs.clear()


class DescriptorEnd:
    """Listens beside a control socket.

    Attributes:
        arrived: every packet that came.
        sessions: all sessions by token, also those whose clients have left.
    """

    def __init__(self, control_socket: str, manners: Manners) -> None:
        path = descriptor_socket(control_socket)
        self.arrived: list[Arrived] = []
        self.sessions: dict[bytes, Session] = {}
        self._manners = manners
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self._listening.bind(path)
        self._listening.listen()
        self._listening.setblocking(False)

    @property
    def living(self) -> list[Session]:
        """The sessions whose connections are open."""
        return [session for session in list(self.sessions.values()) if session.living]

    def batches(self) -> list[tuple[int, int]]:
        """For each batch of files: how many files, and how many descriptors."""
        return [
            (len(one.packet.files), one.descriptors)
            for one in list(self.arrived)
            if isinstance(one.packet, Files)
        ]

    # --- the stand-in's thread -------------------------------------------------------------------

    def sources(self) -> list[socket.socket]:
        """The sockets to poll."""
        return [self._listening, *(session.connection for session in self.living)]

    def serve(self, poller: zmq.Poller) -> list[Session]:
        """Do what is due; return the sessions whose connections ended."""
        ready = {fd for fd, _ in poller.poll(0)}
        if self._listening.fileno() in ready:
            session = Session(self._listening.accept()[0])
            self.sessions[session.token] = session
        ended = []
        for session in self.living:
            self._answer(session)
            if session.connection.fileno() in ready and not self._receive(session):
                session.end()
                ended.append(session)
        return ended

    def hand_out(self, session: Session, load: int, slabs: Sequence[tuple[int, int]]) -> None:
        """Queue `(shard, descriptor)` pairs, in batches; this object closes the descriptors."""
        size = self._manners.slab_batch
        for first in range(0, len(slabs), size):
            batch = slabs[first : first + size]
            packet = Slabs(load, tuple(shard for shard, _ in batch))
            session.slabs.append((packet, [descriptor for _, descriptor in batch]))
        self._answer(session)

    def close(self) -> None:
        self._listening.close()
        for session in self.living:
            session.end()

    def _answer(self, session: Session) -> None:
        """Send what the manners allow; the end of file tells later that a client has left."""
        manners = self._manners
        with contextlib.suppress(OSError):
            if manners.greets and not session.greeted:
                session.greeted = True
                self._send(session, self._greeting(session))
            while manners.takes_files and session.unanswered:
                self._send(session, session.unanswered.popleft())
            if manners.hands_out and session.slabs and not session.awaiting:
                self._send_slabs(session)

    def _greeting(self, session: Session) -> Packet:
        error = self._manners.refuse_client
        if error is not None:
            return Refused(error.code, str(error))
        return Greeting(self._manners.protocol, "0", session.token, session.proof)

    def _send_slabs(self, session: Session) -> None:
        packet, descriptors = session.slabs.popleft()
        session.awaiting = True
        try:
            socket.send_fds(session.connection, [encode_packet(packet)], descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _send(self, session: Session, packet: Packet) -> None:
        session.connection.send(encode_packet(packet))

    def _receive(self, session: Session) -> bool:
        """Receive one packet; False at the end of the connection."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(
                session.connection,
                MAX_PACKET_BYTES,
                RECEIVED_DESCRIPTORS,
                socket.MSG_CMSG_CLOEXEC,
            )
        except OSError:
            return False
        if not data:
            return False
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        packet = decode_from_client(data)
        self.arrived.append(Arrived(packet, len(descriptors)))
        if isinstance(packet, Got):
            assert session.awaiting, "slabs were acknowledged that nobody had sent"
            session.awaiting = False
        else:
            self._take(session, packet, descriptors)
        self._answer(session)
        return True

    def _take(self, session: Session, packet: Files, descriptors: list[int]) -> None:
        assert not session.unanswered, "a batch came before the one before was acknowledged"
        left = deque(descriptors)
        pairs = session.transfers.setdefault(packet.transfer, [])
        for file in packet.files:
            fd = left.popleft()
            pairs.append(HandedPair(file.name, fd, left.popleft() if file.direct else None))
        assert not left, "more descriptors than were told"
        error = self._manners.refuse_files
        if error is not None:
            session.drop(packet.transfer)
            session.unanswered.append(Refused(error.code, str(error), packet.transfer))
        else:
            session.unanswered.append(Taken(packet.transfer, len(pairs)))
