"""What either end of the descriptor socket asks of the kernel: who is there, and the next packet.

Owns the system calls that daemon and client make alike on a connected SOCK_SEQPACKET socket. What a
packet means, and what becomes of its descriptors, is the caller's business. Never waits on a
socket that does not block.
"""

from __future__ import annotations

import socket
import struct
from array import array
from typing import Final, NamedTuple

from streamer_client.contract.handover import MAX_PACKET_BYTES

RECEIVED_DESCRIPTORS: Final = 253
"""SCM_MAX_FD of Linux: there is room for all that one packet can carry, so the kernel withheld a
descriptor that is missing."""
AGAIN_S: Final = 0.005
"""Where the kernel has too many of a user's descriptors on their way, sending is tried again so
soon."""

_UCRED: Final = struct.Struct("iII")
"""`struct ucred` of unix(7)."""


class Peer(NamedTuple):
    """Who is at the other end of a Unix socket, by the kernel's word."""

    pid: int
    """0 where its pid namespace cannot be seen."""
    uid: int
    gid: int


class Received(NamedTuple):
    """One packet as it came."""

    data: bytes
    descriptors: list[int]
    """The receiver's, who closes them; none passes into a program that this process executes."""
    flags: int
    """MSG_CTRUNC: descriptors were withheld; MSG_TRUNC: the packet was too long."""


def peer_of(connected: socket.socket) -> Peer:
    """Who listened when this socket was connected, or who connected it: SO_PEERCRED.

    Raises:
        OSError: the other end is gone already.
    """
    return Peer(
        *_UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    )


def receive_packet(connection: socket.socket) -> Received:
    """Take the next packet; one without data and descriptors is the end of the connection.

    Not by `socket.recv_fds`, which forgets the flags that it is given (Python 3.11): the
    descriptors would pass into every program that this process executes.

    Raises:
        BlockingIOError: none has come.
        OSError: the connection broke.
    """
    descriptors = array("i")
    room = socket.CMSG_SPACE(RECEIVED_DESCRIPTORS * descriptors.itemsize)
    data, parts, flags, _ = connection.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, body in parts:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(body[: len(body) - len(body) % descriptors.itemsize])
    return Received(data, list(descriptors), flags)
