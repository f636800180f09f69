"""The ROUTER socket in the daemon's asyncio loop.

This module owns framing and delivery. It decodes each message, and finds its session by the token
before it. Runs in the main loop without a thread or a task. libzmq's descriptor wakes this module,
which then reads until no message is left, because the descriptor only signals new messages.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Callable
from typing import Final

import zmq

from streamer_client.contract.checks import check
from streamer_client.contract.codec import decode_client, encode
from streamer_client.contract.errors import ProtocolMismatch, StreamerError
from streamer_client.contract.handover import TOKEN_BYTES
from streamer_client.contract.layout import merged
from streamer_client.contract.limits import MAX_MESSAGE_BYTES, MAX_QUEUED_BYTES, MAX_RANGES
from streamer_client.contract.messages import (
    ClientMessage,
    Compared,
    Comparing,
    CredentialsWanted,
    Failed,
    Goodbye,
    Granted,
    Heartbeat,
    Hello,
    Message,
    Opened,
    ShardFailed,
    Verifying,
    Waiting,
)
from streamerd.control.connections import AcceptedConnection, AcceptedConnections
from streamerd.control.sessions import Session, Sessions

logger = logging.getLogger(__name__)

MAX_MESSAGES_A_TURN: Final = 256
"""After this many messages the loop does other work first."""
MAX_BYTES_A_TURN: Final = 1 << 20
"""The same for long messages: decoding a megabyte may take a tenth of a second."""
CONNECTION_REQUEST: Final = -1
MAX_QUEUED_MESSAGES: Final = 1000
"""Messages of one peer that libzmq queues in each direction. This is half a second of grants at 30
GB/s, in turns of 2 ms."""
MAX_BACKLOG: Final = 4096
"""The most messages that wait for one peer. Its loads cannot need more, since grants are merged."""
LONG_BYTES: Final = 4096
"""A message of at least this length is counted until it has left this process. Shorter ones take
little memory even if `MAX_QUEUED_MESSAGES` of them wait."""
RETRY_S: Final = 0.05
GARBAGE_TOLD_S: Final = 1.0
HANDSHAKE_MS: Final = 2000
"""libzmq ends a connection whose peer has not spoken ZMTP within this time."""
MAX_CONNECTIONS: Final = 4096
"""Connections of the ZeroMQ socket: twice as many as there may be clients, since a connection that
ended counts until libzmq has closed it. Where this process may have few descriptors, it is an
eighth of them. Together with `UNHEARD` that fits into 1,024, the lowest limit that systems set."""
_GOODBYE: Final = encode(Goodbye())

_OF_LOADS: Final = (
    Opened,
    Granted,
    ShardFailed,
    Comparing,
    Compared,
    CredentialsWanted,
    Waiting,
)
"""Messages that a client must get sooner or later. The bound on its loads bounds their number."""
_PASSING: Final = (Heartbeat, Verifying)
"""Messages that may be dropped if a client does not read."""

Receiver = Callable[[Session, ClientMessage], None]
"""Called with a message and the session that it belongs to; `Hello` comes before all others."""


class ControlSocket:
    """Serves a listening socket at `path`, and sends messages to sessions.

    Args:
        path: where the socket listens.
        sessions: the connected clients.
    """

    def __init__(self, path: str, sessions: Sessions) -> None:
        self._sessions = sessions
        self._receive: Receiver
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._waiting: set[str] = set()
        """Sessions with a backlog."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(MAX_CONNECTIONS, soft // 8)
        self._connections = AcceptedConnections(self._socket, path, most, soft)
        self._connection_of: dict[str, AcceptedConnection | None] = {}
        """The ZeroMQ connection of each session, by the session's name."""
        self._untold = 0
        """Number of senseless messages since the last log line about one."""
        self._told_s = -GARBAGE_TOLD_S

    def open(self, listening: int, receive: Receiver) -> None:
        """Serve clients.

        Args:
            listening: descriptor of a socket that listens at the path; libzmq closes it.
            receive: gets every valid message.

        Raises:
            ConfigError: libzmq cannot serve it.
        """
        self._receive = receive
        self._socket.sndhwm = MAX_QUEUED_MESSAGES
        self._socket.rcvhwm = MAX_QUEUED_MESSAGES
        self._socket.maxmsgsize = MAX_MESSAGE_BYTES + TOKEN_BYTES
        self._socket.handshake_ivl = HANDSHAKE_MS
        self._socket.linger = 500
        self._socket.router_mandatory = 1
        self._connections.open(listening)
        self._loop.add_reader(self._descriptor, self._drain)
        self._schedule()

    @property
    def _descriptor(self) -> int:
        return int(self._socket.getsockopt(zmq.FD))

    def close(self) -> None:
        """Stop listening."""
        for timer in (self._again, self._retry):
            if timer is not None:
                timer.cancel()
        if not self._socket.closed:
            self._loop.remove_reader(self._descriptor)
            self._connections.close()
            self._context.term()

    def forget(self, session: Session) -> None:
        """End a session's connection, and drop the messages that it has not read."""
        self._waiting.discard(session.name)
        connection = self._connection_of.pop(session.name, None)
        if connection is not None:
            self._connections.end(connection)

    def send(self, name: str, message: Message) -> bool:
        """Queue a message to a session; False if it is not connected, or this socket is closed.

        A client that does not read is sent no more than its queue takes. Messages about its loads
        then wait here, since the process may only be stopped for a while; the grants of one load
        are merged into one message. If a client keeps sending requests and never reads an answer,
        its session ends.
        """
        session = self._sessions.get(name)
        if session is None or not session.peer:
            return False
        if not session.backlog and self._sent(session, message):
            return True
        if isinstance(message, _OF_LOADS):
            self._put_off(session, message)
        elif not isinstance(message, _PASSING):
            self._sessions.end(session, "does not read what it asks for")
        return name in self._waiting

    def _put_off(self, session: Session, message: Message) -> None:
        backlog = session.backlog
        last = backlog[-1] if backlog else None
        if isinstance(message, Granted) and isinstance(last, Granted) and last.load == message.load:
            together = merged((*last.ranges, *message.ranges))
            if len(together) <= MAX_RANGES:
                backlog[-1] = Granted(message.load, together)
                return
        backlog.append(message)
        self._waiting.add(session.name)
        if len(backlog) > MAX_BACKLOG:
            self._sessions.end(session, "does not read what its loads are told")
            self._waiting.discard(session.name)
        elif self._retry is None:
            self._retry = self._loop.call_later(RETRY_S, self._send_backlogs)

    def _send_backlogs(self) -> None:
        self._retry = None
        for name in list(self._waiting):
            session = self._sessions.get(name)
            while session is not None and session.backlog:
                if not self._sent(session, session.backlog[0]):
                    break
                session.backlog.popleft()
            if session is None or not session.backlog:
                self._waiting.discard(name)
        if self._waiting and not self._socket.closed:
            self._retry = self._loop.call_later(RETRY_S, self._send_backlogs)

    def _sent(self, session: Session, message: Message) -> bool:
        """Send one message; False if there is no room for it."""
        data = encode(message)
        if len(data) < LONG_BYTES:
            return self._send(session.peer, data) is not None
        unread = session.unread
        while unread and unread[0][1].done:
            unread.popleft()
        if sum(size for size, _ in unread) + len(data) > MAX_QUEUED_BYTES:
            return False
        tracker = self._send(session.peer, data, track=True)
        if isinstance(tracker, zmq.MessageTracker):
            unread.append((len(data), tracker))
        return tracker is not None

    def _send(
        self, peer: bytes, data: bytes, *, track: bool = False
    ) -> zmq.MessageTracker | bool | None:
        """Give libzmq a message.

        Returns:
            None where the peer's queue is full. With `track`, an object that tells when the message
            has left this process.
        """
        if self._socket.closed:
            return False
        try:
            tracker = self._socket.send_multipart(
                [peer, data], zmq.NOBLOCK, copy=not track, track=track
            )
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            logger.debug("event=message_not_sent peer=%s error=%s", peer.hex(), error)
            return False
        finally:
            # Sending may consume the signal that a message has come, so this looks for one.
            self._schedule()
        return tracker or True

    def _schedule(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        left_bytes = MAX_BYTES_A_TURN
        for _ in range(MAX_MESSAGES_A_TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._deliver(frames)
            left_bytes -= sum(len(frame) for frame in frames)
            if left_bytes <= 0:
                break
        self._schedule()

    def _deliver(self, frames: list[zmq.Frame]) -> None:
        peer, request_id = frames[0].bytes, CONNECTION_REQUEST
        if self._is_late_goodbye(frames):
            return
        try:
            session, message = self._understood(frames)
            # A refusal without a request's number would mean the whole connection.
            request_id = max(CONNECTION_REQUEST, getattr(message, "request_id", CONNECTION_REQUEST))
            self._admit(session, peer, message)
            if session.name not in self._connection_of:
                descriptor = int(frames[1].get(zmq.SRCFD))
                self._connection_of[session.name] = self._connections.claim(descriptor)
            check(message)
        except StreamerError as error:
            self._tell_garbage(peer, error)
            self._send(peer, encode(Failed(request_id, error.code, str(error))))
            return
        self._receive(session, message)

    def _is_late_goodbye(self, frames: list[zmq.Frame]) -> bool:
        """Whether this is the `Goodbye` of a client whose session ended with its connection."""
        said = frames[-1].buffer
        return (
            len(frames) == 2
            and said[TOKEN_BYTES:] == _GOODBYE
            and self._sessions.presented(bytes(said[:TOKEN_BYTES])) is None
        )

    def _tell_garbage(self, peer: bytes, error: StreamerError) -> None:
        """Log at most one line a second, so that a peer cannot fill the log's disk."""
        self._untold += 1
        now_s = self._loop.time()
        if now_s >= self._told_s + GARBAGE_TOLD_S:
            logger.warning(
                "event=garbage_received peer=%s messages=%d error=%s",
                peer.hex(),
                self._untold,
                error,
            )
            self._untold, self._told_s = 0, now_s

    def _understood(self, frames: list[zmq.Frame]) -> tuple[Session, ClientMessage]:
        if len(frames) != 2:
            raise ProtocolMismatch(f"a message of {len(frames) - 1} frames instead of 1")
        body = frames[1].buffer
        session = self._sessions.presented(bytes(body[:TOKEN_BYTES]))
        if session is None:
            raise ProtocolMismatch(
                "the message has no token of a living connection to the descriptor socket; "
                "connect there first, and install the same version of streamerd on both sides"
            )
        return session, decode_client(body[TOKEN_BYTES:])

    def _admit(self, session: Session, peer: bytes, message: ClientMessage) -> None:
        """Pass a session's message to the receiver, or refuse it."""
        if session.peer not in (b"", peer):
            raise ProtocolMismatch("this token belongs to another connection, not to the message's")
        if isinstance(message, Hello):
            if session.greeted:
                raise ProtocolMismatch("this connection has said Hello already")
            session.peer = peer
        elif not session.greeted:
            raise ProtocolMismatch("say Hello first: the daemon must know the client's version")
