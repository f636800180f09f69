"""The connected clients: one session for each connection of the descriptor socket.

A session begins with a connection of the descriptor socket. It ends with the connection or with the
process that made the connection, whichever ends first. A forked child that still has the connection
open does not prolong the session, and no silence, however long, ends it. The ZeroMQ peer that
presents the session's token is this client, and no other peer is. Runs in the daemon's loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from zmq import MessageTracker

from streamer_client.connecting.packet_socket import peer_of
from streamer_client.contract.handover import TOKEN_BYTES
from streamer_client.contract.limits import MAX_NUMBER
from streamer_client.contract.messages import Copied, Message

logger = logging.getLogger(__name__)

OPERATORS_LABEL: Final = "streamerctl"
"""The label by which streamerctl introduces itself."""
_SO_PEERPIDFD: Final = 77
"""SO_PEERPIDFD of <asm-generic/socket.h> (Linux 6.5); the socket module has no name for it."""


@dataclass(slots=True, eq=False)
class Session:
    """One connected client process."""

    name: str
    """The daemon's own name for the session, which no client learns."""
    pid: int
    """The client's pid in the daemon's pid namespace, from the kernel; 0 if it has none there."""
    uid: int
    gid: int
    connection: socket.socket
    token: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))
    proof: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))
    pidfd: int = -1
    peer: bytes = b""
    """Routing id of the ZeroMQ peer that presented the token; empty before `Hello`."""
    greeted: bool = False
    """Whether the client's `Hello` was understood."""
    label: str = ""
    world: int = 0
    backlog: deque[Message] = field(default_factory=deque)
    """Messages to the client for which libzmq has no room, because the client does not read."""
    unread: deque[tuple[int, MessageTracker]] = field(default_factory=deque)
    """Sizes of long answers, each with a tracker that tells when it has left this process."""


@dataclass(slots=True)
class CopiedTotals:
    """Sums of the bytes that clients say they copied.

    No sum exceeds the largest number that a message can hold. Otherwise a client that lies could
    make a status that cannot be sent.
    """

    copied_bytes: int = 0
    page_cache_bytes: int = 0
    direct_bytes: int = 0

    def add(self, told: Copied) -> None:
        """Count one client's figures; its parts are cut to be no more than its whole."""
        page_cache_bytes = min(told.page_cache_bytes, told.copied_bytes)
        direct_bytes = min(told.direct_bytes, told.copied_bytes - page_cache_bytes)
        self.copied_bytes = min(self.copied_bytes + told.copied_bytes, MAX_NUMBER)
        self.page_cache_bytes = min(self.page_cache_bytes + page_cache_bytes, MAX_NUMBER)
        self.direct_bytes = min(self.direct_bytes + direct_bytes, MAX_NUMBER)


class Sessions:
    """The sessions by name and by token.

    Args:
        gone: called once with each session that ended, whatever ended it.
    """

    def __init__(self, gone: Callable[[Session], None]) -> None:
        self._gone = gone
        self._by_name: dict[str, Session] = {}
        self._by_token: dict[bytes, Session] = {}
        self._count = 0
        self.copied = CopiedTotals()
        """Sums of the bytes of tensors that clients copied, including clients that left."""
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._by_name.values()))

    def get(self, name: str) -> Session | None:
        return self._by_name.get(name)

    def presented(self, token: bytes) -> Session | None:
        """The session of a token; None for a token that no client was given."""
        return self._by_token.get(token)

    def of_user(self, uid: int) -> int:
        """How many sessions a user has."""
        return sum(session.uid == uid for session in self._by_name.values())

    def begin(self, connection: socket.socket) -> Session:
        """Begin the session of a new connection.

        Raises:
            OSError: the kernel does not tell who connected: the other end is gone already.
        """
        pid, uid, gid = peer_of(connection)
        self._count += 1
        session = Session(str(self._count), pid, uid, gid, connection)
        session.pidfd = _pidfd(connection, pid)
        self._by_name[session.name] = session
        self._by_token[session.token] = session
        if session.pidfd >= 0:
            self._loop.add_reader(session.pidfd, self.end, session, "process ended")
        return session

    def greet(self, session: Session, told_pid: int, label: str, world: int) -> None:
        """Note what a client says of itself; its pid counts only if the kernel tells none."""
        session.greeted = True
        session.pid = session.pid or told_pid
        session.label = label
        session.world = world

    def end(self, session: Session, reason: str) -> None:
        """End a session. No effect if it has ended already."""
        if self._by_name.get(session.name) is not session:
            return
        self._forget(session)
        logger.log(
            connection_level(session.label),
            "event=client_gone pid=%d uid=%d label=%r reason=%r",
            session.pid, session.uid, session.label, reason,
        )  # fmt: skip
        self._gone(session)
        session.connection.close()

    def _forget(self, session: Session) -> None:
        del self._by_name[session.name]
        del self._by_token[session.token]
        if session.pidfd >= 0:
            self._loop.remove_reader(session.pidfd)
            os.close(session.pidfd)
            session.pidfd = -1

    def close(self) -> None:
        """Close all connections as the daemon stops, without ending the clients' leases."""
        for session in self:
            self._forget(session)
            session.connection.close()


def connection_level(label: str) -> int:
    """The log level of lines about a connection, which is lower for streamerctl.

    A request of streamerctl that changes something is logged by the module that handles it.
    """
    return logging.DEBUG if label == OPERATORS_LABEL else logging.INFO


def _pidfd(connection: socket.socket, pid: int) -> int:
    """A descriptor of the process that connected; -1 if the kernel gives none.

    The descriptor is taken from the connection. So it cannot mean a later process with the same
    pid, and it works across pid namespaces. Kernels before 6.5 give a descriptor by pid only.
    """
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        pass
    try:
        return os.pidfd_open(pid) if pid else -1
    except OSError as error:
        # The end of the connection still ends the session. Only a forked child could delay that.
        logger.debug("event=process_not_watched pid=%d error=%r", pid, error.strerror)
        return -1
