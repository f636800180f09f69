"""Packets of the descriptor socket: each survives the wire, and no other bytes are
taken for one.
"""

from __future__ import annotations

import typing
from collections.abc import Callable

import msgspec
import pytest
from tests.support.every_message import PACKETS_OF_CLIENT, PACKETS_OF_DAEMON

from streamer_client.contract import handover as h
from streamer_client.contract.errors import ProtocolMismatch

Decoder = Callable[[bytes], h.Packet]
decoders = pytest.mark.parametrize("decode", [h.decode_from_client, h.decode_from_daemon])


def test_every_packet_is_among_the_samples() -> None:
    assert {type(packet) for packet in PACKETS_OF_CLIENT} == set(typing.get_args(h.FromClient))
    assert {type(packet) for packet in PACKETS_OF_DAEMON} == set(typing.get_args(h.FromDaemon))


@pytest.mark.parametrize("packet", PACKETS_OF_CLIENT, ids=lambda packet: type(packet).__name__)
def test_packets_of_a_client_survive_the_wire(packet: h.Packet) -> None:
    assert h.decode_from_client(h.encode_packet(packet)) == packet


@pytest.mark.parametrize("packet", PACKETS_OF_DAEMON, ids=lambda packet: type(packet).__name__)
def test_packets_of_a_daemon_survive_the_wire(packet: h.Packet) -> None:
    assert h.decode_from_daemon(h.encode_packet(packet)) == packet


GARBAGE = {
    "empty": b"",
    "text": b"GET / HTTP/1.1\r\n",
    "cut short": h.encode_packet(h.Got(1))[:-1],
    "no tag": msgspec.msgpack.encode({"load": 1}),
    "unknown tag": msgspec.msgpack.encode({"type": "Shout"}),
    "unknown field": msgspec.msgpack.encode({"type": "Got", "load": 1, "force": True}),
    "wrong type": msgspec.msgpack.encode({"type": "Got", "load": "1"}),
    "bad UTF-8": b"\x81\xa4type\xa1\xff",
    "nested": b"\x82\xa1x" + b"\x91" * 60_000 + b"\xc0\xa4type\xa3Got",
    "a list longer than it": b"\x83\xa4type\xa5Files\xa8transfer\x01\xa5files\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
@decoders
def test_garbage_is_a_protocol_mismatch_with_a_remedy(decode: Decoder, data: bytes) -> None:
    with pytest.raises(ProtocolMismatch, match="install the same version of streamerd"):
        decode(data)


def test_each_side_refuses_its_own_packets() -> None:
    with pytest.raises(ProtocolMismatch, match="the client sent"):
        h.decode_from_client(h.encode_packet(h.Taken(1, 1)))
    with pytest.raises(ProtocolMismatch, match="the daemon sent"):
        h.decode_from_daemon(h.encode_packet(h.Got(1)))


def test_the_fullest_batch_fits_a_packet() -> None:
    """64 names that together have as many bytes as the client puts into one packet."""
    name = "n" * (h.MAX_PACKET_BYTES * 3 // 4 // h.BATCH_DESCRIPTORS)
    files = (h.HandedFile(name, False),) * h.BATCH_DESCRIPTORS
    assert len(h.encode_packet(h.Files(2**63, files))) <= h.MAX_PACKET_BYTES
