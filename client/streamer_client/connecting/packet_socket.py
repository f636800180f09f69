"""What both ends of the descriptor socket ask the kernel: the peer, and the next packet.

Owns the system calls that daemon and client make alike on a connected SOCK_SEQPACKET socket. The
callers decide what a packet means and what becomes of its descriptors. Nothing here waits on a
non-blocking socket.
"""

from __future__ import annotations

import socket
import struct
from array import array
from typing import Final, NamedTuple

from streamer_client.contract.handover import MAX_PACKET_BYTES

RECEIVED_DESCRIPTORS: Final = 253
"""SCM_MAX_FD of Linux. A buffer for so many holds every descriptor that one packet can carry, so a
missing descriptor was withheld by the kernel."""
AGAIN_S: Final = 0.005
"""How soon to send again after the kernel refused because too many of a user's descriptors are on
their way."""

_UCRED: Final = struct.Struct("iII")
"""The layout of `struct ucred`, see unix(7)."""


class Peer(NamedTuple):
    """The process at the other end of a Unix socket, as the kernel tells it."""

    pid: int
    """The pid of the process; 0 if it is in a pid namespace that cannot be seen."""
    uid: int
    gid: int


class Received(NamedTuple):
    """One packet as it came."""

    data: bytes
    descriptors: list[int]
    """Descriptors that the receiver must close; programs that it executes do not inherit them."""
    flags: int
    """Flags of recvmsg(2): MSG_CTRUNC if descriptors were withheld, MSG_TRUNC if data was cut."""


def peer_of(connected: socket.socket) -> Peer:
    """The process that listened when this socket was connected, or that connected it: SO_PEERCRED.

    Raises:
        OSError: the other end is gone already.
    """
    return Peer(
        *_UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    )


def receive_packet(connection: socket.socket) -> Received:
    """Take the next packet; one without data and descriptors is the end of the connection.

    `socket.recv_fds` is not used because Python 3.11 ignores the flags passed to it. The
    descriptors would pass into every program that this process executes.

    Raises:
        BlockingIOError: no packet has come.
        OSError: the connection broke.
    """
    descriptors = array("i")
    room = socket.CMSG_SPACE(RECEIVED_DESCRIPTORS * descriptors.itemsize)
    data, parts, flags, _ = connection.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, body in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(body[: len(body) - len(body) % descriptors.itemsize])
    return Received(data, list(descriptors), flags)
