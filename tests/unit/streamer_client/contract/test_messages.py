"""Every message survives the wire, and nothing else is taken for one."""

from __future__ import annotations

import typing
from collections.abc import Callable

import msgspec
import pytest
from tests.support.every_message import CLIENT, DAEMON

from streamer_client.contract import messages as m
from streamer_client.contract.errors import ProtocolMismatch

Decoder = Callable[[bytes], m.Message]


def test_every_message_is_among_the_samples() -> None:
    assert {type(message) for message in CLIENT} == set(typing.get_args(m.ClientMessage))
    assert {type(message) for message in DAEMON} == set(typing.get_args(m.DaemonMessage))


@pytest.mark.parametrize("message", CLIENT, ids=lambda message: type(message).__name__)
def test_client_messages_survive_the_wire(message: m.ClientMessage) -> None:
    assert m.decode_client(m.encode(message)) == message
    assert m.decode_client(memoryview(m.encode(message))) == message


@pytest.mark.parametrize("message", DAEMON, ids=lambda message: type(message).__name__)
def test_daemon_messages_survive_the_wire(message: m.DaemonMessage) -> None:
    assert m.decode_daemon(m.encode(message)) == message


def test_defaults_are_filled_in() -> None:
    frame = msgspec.msgpack.encode({"type": "Open", "request_id": 1, "load": 2, "source": "/m"})
    assert m.decode_client(frame) == m.Open(1, 2, "/m", None, None, "all", False, -1, None, {})


GARBAGE = {
    "empty": b"",
    "text": b"GET / HTTP/1.1\r\n",
    "cut short": m.encode(m.Pin(1, "/m"))[:-1],
    "two in one frame": m.encode(m.Heartbeat()) * 2,
    "no tag": msgspec.msgpack.encode({"request_id": 1, "source": "/m"}),
    "unknown tag": msgspec.msgpack.encode({"type": "Shout", "request_id": 1}),
    "unknown field": msgspec.msgpack.encode({"type": "Close", "load": 1, "force": True}),
    "missing field": msgspec.msgpack.encode({"type": "Pin", "request_id": 1}),
    "wrong type": msgspec.msgpack.encode({"type": "Close", "load": "1"}),
    "short range": msgspec.msgpack.encode({"type": "Want", "load": 1, "ranges": [[0, 1]]}),
    "no map": msgspec.msgpack.encode([1, 2]),
    "bad UTF-8": b"\x82\xa4type\xa5Close\xa4load\xa1\xff",
}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("decode", [m.decode_client, m.decode_daemon])
def test_garbage_is_a_protocol_mismatch_with_a_remedy(decode: Decoder, frame: bytes) -> None:
    with pytest.raises(ProtocolMismatch, match="install the same version of streamerd"):
        decode(frame)


def test_each_side_refuses_its_own_messages() -> None:
    with pytest.raises(ProtocolMismatch, match="the client sent"):
        m.decode_client(m.encode(m.Granted(1, ())))
    with pytest.raises(ProtocolMismatch, match="the daemon sent"):
        m.decode_daemon(m.encode(m.Goodbye()))
