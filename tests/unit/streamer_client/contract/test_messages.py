"""Every message survives the wire, and no other bytes are taken for one."""

from __future__ import annotations

import typing
from collections.abc import Callable

import msgspec
import pytest
from tests.support.every_message import CLIENT, DAEMON

from streamer_client.contract import limits
from streamer_client.contract import messages as m
from streamer_client.contract.codec import decode_client, decode_daemon, encode
from streamer_client.contract.errors import ConfigError, ProtocolMismatch
from streamer_client.contract.options import LoadOptions

Decoder = Callable[[bytes], m.Message]


def test_every_message_is_among_the_samples() -> None:
    assert {type(message) for message in CLIENT} == set(typing.get_args(m.ClientMessage))
    assert {type(message) for message in DAEMON} == set(typing.get_args(m.DaemonMessage))


@pytest.mark.parametrize("message", CLIENT, ids=lambda message: type(message).__name__)
def test_client_messages_survive_the_wire(message: m.ClientMessage) -> None:
    assert decode_client(encode(message)) == message
    assert decode_client(memoryview(encode(message))) == message


@pytest.mark.parametrize("message", DAEMON, ids=lambda message: type(message).__name__)
def test_daemon_messages_survive_the_wire(message: m.DaemonMessage) -> None:
    assert decode_daemon(encode(message)) == message


def test_defaults_are_filled_in() -> None:
    frame = msgspec.msgpack.encode({"type": "Open", "request_id": 1, "load": 2, "source": "/m"})
    assert decode_client(frame) == m.Open(
        1, 2, "/m", 0, None, None, "all", LoadOptions(True, -1, None), {}
    )


GARBAGE = {
    "empty": b"",
    "text": b"GET / HTTP/1.1\r\n",
    "cut short": encode(m.Pin(1, "/m"))[:-1],
    "two in one frame": encode(m.Heartbeat()) * 2,
    "no tag": msgspec.msgpack.encode({"request_id": 1, "source": "/m"}),
    "unknown tag": msgspec.msgpack.encode({"type": "Shout", "request_id": 1}),
    "unknown field": msgspec.msgpack.encode({"type": "Close", "load": 1, "force": True}),
    "missing field": msgspec.msgpack.encode({"type": "Pin", "request_id": 1}),
    "wrong type": msgspec.msgpack.encode({"type": "Close", "load": "1"}),
    "unknown word": msgspec.msgpack.encode(
        {"type": "Open", "request_id": 1, "load": 1, "source": "/m", "want": "headers"}
    ),
    "options beside an Open, as in protocol 4": msgspec.msgpack.encode(
        {"type": "Open", "request_id": 1, "load": 1, "source": "/m", "hold": True}
    ),
    "unknown option": msgspec.msgpack.encode(
        {"type": "Open", "request_id": 1, "load": 1, "source": "/m", "options": {"speed": 1}}
    ),
    "short range": msgspec.msgpack.encode({"type": "Want", "load": 1, "ranges": [[0, 1]]}),
    "no map": msgspec.msgpack.encode([1, 2]),
    "bad UTF-8": b"\x82\xa4type\xa5Close\xa4load\xa1\xff",
}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("decode", [decode_client, decode_daemon])
def test_garbage_is_a_protocol_mismatch_with_a_remedy(decode: Decoder, frame: bytes) -> None:
    with pytest.raises(ProtocolMismatch, match="install the same version of streamerd"):
        decode(frame)


HOSTILE = {
    "bad UTF-8 in the tag": b"\x81\xa4type\xa1\xff",
    "bad UTF-8 in a label": encode(m.Hello(1, 3, "1", 1, "XX")).replace(b"XX", b"\xff\xfe"),
    "bad UTF-8 in a key": b"\x82\xa4type\xa9Heartbeat\xa1\xff\x01",
    "nested before the tag": b"\x82\xa1x" + b"\x91" * 200_000 + b"\xc0\xa4type\xa9Heartbeat",
    "maps before the tag": b"\x82\xa1x" + b"\x81\xa1a" * 200_000 + b"\xc0\xa4type\xa9Heartbeat",
    "nested after the tag": b"\x82\xa4type\xa9Heartbeat\xa1x" + b"\x91" * 200_000 + b"\xc0",
    "nested in a body": b"\x83\xa4type\xa6Status\xaarequest_id\x01\xa4body\x81\xa1a"
    + b"\x91" * 200_000
    + b"\xc0",
    "a map longer than it": b"\xdf\xff\xff\xff\xff\xa4type\xa9Heartbeat",
    "a list longer than it": b"\x83\xa4type\xa4Want\xa4load\x01\xa6ranges\xdd\xff\xff\xff\xff",
    "a text longer than it": b"\x82\xa4type\xdb\xff\xff\xff\xff",
    "a body longer than it": b"\x83\xa4type\xa6Status\xaarequest_id\x01\xa4body\x81\xa1a"
    b"\xdd\xff\xff\xff\xff",
    "a tag of another kind": b"\x81\xa4type\x01",
    "two tags": b"\x82\xa4type\xa9Heartbeat\xa4type\xa7Goodbye",
    "a key of another kind": b"\x81\x01\x01",
    "no number": b"\x82\xa4type\xa5Close\xa4load\xcb\x7f\xf8" + bytes(6),
    "a time that is none": b"\x83\xa4type\xa6Status\xaarequest_id\x01\xa4body\x81\xa1a\xd7\xff"
    + b"\xff" * 8,
    "a key that cannot be one": b"\x83\xa4type\xa6Status\xaarequest_id\x01\xa4body\x81\xa1a"
    b"\x81\x81\x01\x01\x01",
}


@pytest.mark.parametrize("frame", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("decode", [decode_client, decode_daemon])
def test_whatever_arrives_is_told_in_one_short_line(decode: Decoder, frame: bytes) -> None:
    with pytest.raises(ProtocolMismatch, match="install the same version of streamerd") as caught:
        decode(frame)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the decoder's own text would come into a traceback"


@pytest.mark.parametrize("name", ["\x1b[31m", "a\nERROR forged", "hunter2" * 100, "\u202ex"])
def test_words_that_are_none_of_ours_are_not_repeated(name: str) -> None:
    tag = msgspec.msgpack.encode({"type": name})
    field = msgspec.msgpack.encode({"type": "Heartbeat", name: "value"})
    for frame in (tag, field):
        with pytest.raises(ProtocolMismatch, match="is no word of the protocol") as caught:
            decode_client(frame)
        assert name not in str(caught.value)


def test_an_unknown_field_is_named_and_its_value_is_not() -> None:
    frame = msgspec.msgpack.encode({"type": "Heartbeat", "since": "hunter2"})
    with pytest.raises(ProtocolMismatch, match="unknown field `since`") as caught:
        decode_client(frame)
    assert "hunter2" not in str(caught.value)


def test_of_a_field_told_twice_the_last_counts() -> None:
    frame = b"\x83\xa4type\xa5Close\xa4load\x01\xa4load\x02"
    assert decode_client(frame) == m.Close(2)


def test_size_is_looked_at_before_anything_else() -> None:
    for decode, most in (
        (decode_client, limits.MAX_MESSAGE_BYTES),
        (decode_daemon, limits.MAX_ANSWER_BYTES),
    ):
        with pytest.raises(ProtocolMismatch, match=f"of {most + 1} bytes, and {most} is the most"):
            decode(b"\x91" * (most + 1))


@pytest.mark.parametrize("message", [m.Pin(1, "/m/caf\udce9"), m.Close(2**70)])
def test_what_cannot_be_sent_is_told_as_such(message: m.Message) -> None:
    with pytest.raises(ConfigError, match="cannot be sent"):
        encode(message)


def test_each_side_refuses_its_own_messages() -> None:
    with pytest.raises(ProtocolMismatch, match="the client sent"):
        decode_client(encode(m.Granted(1, ())))
    with pytest.raises(ProtocolMismatch, match="the daemon sent"):
        decode_daemon(encode(m.Goodbye()))
