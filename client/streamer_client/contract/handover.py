"""Packets of the descriptor socket: who is there, files handed to the daemon, slabs handed out.

The descriptor socket lies beside the control socket and carries what ZeroMQ cannot: descriptors,
and the kernel's word on who is at the other end. Each packet is one msgpack struct in one
SOCK_SEQPACKET message; the descriptors that belong to it travel in the same message.
`docs/protocol.md` tells the conversation. Pure: the daemon's `control/` and the
client's `connecting/descriptors.py` open and read the sockets.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from streamer_client.contract.errors import ProtocolMismatch

TOKEN_BYTES: Final = 16
"""Length of a token: 128 random bits, which nobody guesses."""
BATCH_DESCRIPTORS: Final = 64
"""The most descriptors in one packet. The kernel takes at most 253. For each user it also counts
the descriptors that are on their way, and refuses more than the limit of open files (ETOOMANYREFS).
With 64, eight ranks of one user stay below the usual 1,024 together."""
MAX_PACKET_BYTES: Final = 64 << 10
"""Half of what a socket takes with the kernel's defaults; labels are cut so that a batch fits."""
MAX_NAME_BYTES: Final = 4096
"""PATH_MAX of Linux; the path of an opened file is never longer."""


class Packet(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The base of all packets; `tag` is the class name."""


# --- daemon to client ---------------------------------------------------------------------------


class Greeting(Packet, frozen=True):
    """The first packet of a connection."""

    protocol: int
    version: str
    """The daemon's version, for the text of an error when the protocols differ."""
    token: bytes
    """The client puts it before each ZeroMQ message, so that the daemon knows the sender."""
    proof: bytes
    """`Welcome` repeats it, so the client knows that one daemon answers on both sockets."""


class Taken(Packet, frozen=True):
    """A batch of files arrived; the next one may be sent."""

    transfer: int
    count: int
    """How many files of the transfer arrived so far."""


class Slabs(Packet, frozen=True):
    """Read-only descriptors of slabs, one for each number in `shards`, which counts in the load."""

    load: int
    shards: tuple[int, ...]


class Refused(Packet, frozen=True):
    """The daemon refuses the connection, or one transfer in it (`transfer` > 0)."""

    code: str
    message: str
    transfer: int = 0


# --- client to daemon ---------------------------------------------------------------------------


class HandedFile(msgspec.Struct, frozen=True, array_like=True):
    """One file of a batch."""

    name: str
    """The path by which the client knows the file. People read it; the daemon never opens it."""
    direct: bool
    """Whether a second descriptor follows, opened for O_DIRECT alone."""


class Files(Packet, frozen=True):
    """The next files of a transfer, in order, with one or two descriptors each."""

    transfer: int
    files: tuple[HandedFile, ...]


class Got(Packet, frozen=True):
    """A `Slabs` packet arrived; the next one may be sent."""

    load: int


FromDaemon = Greeting | Taken | Slabs | Refused
FromClient = Files | Got

_encoder = msgspec.msgpack.Encoder()
_from_daemon: msgspec.msgpack.Decoder[FromDaemon] = msgspec.msgpack.Decoder(FromDaemon)
_from_client: msgspec.msgpack.Decoder[FromClient] = msgspec.msgpack.Decoder(FromClient)


_P = TypeVar("_P")


def encode_packet(packet: Packet) -> bytes:
    """The wire form of one packet."""
    return _encoder.encode(packet)


def decode_from_daemon(data: bytes) -> FromDaemon:
    """Decode what the daemon sent.

    Raises:
        ProtocolMismatch: it is no packet of this version.
    """
    return _decoded(_from_daemon, data, "daemon")


def decode_from_client(data: bytes) -> FromClient:
    """Decode what a client sent.

    Raises:
        ProtocolMismatch: it is no packet of this version.
    """
    return _decoded(_from_client, data, "client")


def _decoded(decoder: msgspec.msgpack.Decoder[_P], data: bytes, whose: str) -> _P:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolMismatch(
            f"the {whose} sent a packet on the descriptor socket that this version does not know; "
            "install the same version of streamerd on both sides"
        ) from error
