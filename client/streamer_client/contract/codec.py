"""The wire form of messages: encoding, and decoding whatever arrives.

Owns that a decoder returns only messages of this version, and that its refusal is one short line,
whatever the frame holds. `checks.py` checks the fields of a decoded message. `handover.py` has the
wire form of the packets of the descriptor socket. Pure.
"""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from streamer_client.contract.errors import ConfigError, ProtocolMismatch
from streamer_client.contract.limits import MAX_ANSWER_BYTES, MAX_MESSAGE_BYTES
from streamer_client.contract.messages import PROTOCOL, ClientMessage, DaemonMessage, Message
from streamer_client.contract.printable import printable

_NAME_CHARACTERS: Final = 64
"""The longest name that may be quoted; fields and messages of every version have shorter ones."""
_QUOTED: Final = re.compile(r"(?:unknown field `|Invalid value ')(.*)['`]", re.DOTALL)

_encoder = msgspec.msgpack.Encoder()
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)
_daemon_decoder: msgspec.msgpack.Decoder[DaemonMessage] = msgspec.msgpack.Decoder(DaemonMessage)


def encode(message: Message) -> bytes:
    """The wire form of one message.

    Raises:
        ConfigError: the message has a value that the wire cannot carry: a name that is no UTF-8, or
            a number of more than 64 bits.
    """
    try:
        return _encoder.encode(message)
    except (UnicodeEncodeError, OverflowError) as error:
        what = (
            "a name that is not UTF-8" if isinstance(error, UnicodeError) else "too large a number"
        )
        raise ConfigError(
            f"{type(message).__name__} holds {what} and cannot be sent; rename the file, or "
            "correct the number"
        ) from None


def decode_client(frame: bytes | memoryview) -> ClientMessage:
    """Decode any frame that a client sent.

    Raises:
        ProtocolMismatch: the frame is not a message of this version.
    """
    return _decoded(_client_decoder, frame, "client", MAX_MESSAGE_BYTES)


def decode_daemon(frame: bytes | memoryview) -> DaemonMessage:
    """Decode any frame that the daemon sent.

    Raises:
        ProtocolMismatch: the frame is not a message of this version.
    """
    return _decoded(_daemon_decoder, frame, "daemon", MAX_ANSWER_BYTES)


Decoded = TypeVar("Decoded")


def _decoded(
    decoder: msgspec.msgpack.Decoder[Decoded], frame: bytes | memoryview, peer: str, most: int
) -> Decoded:
    """Decode a frame, and raise only one kind of error, whatever msgspec raises.

    msgspec raises `DecodeError` for nearly everything, `UnicodeDecodeError` for a text that is not
    UTF-8, and `RecursionError` for deep nesting. It reaches the interpreter's limit of recursion in
    50 us, however long the frame is, so frames need no search for nesting beforehand. It compares
    lengths with the frame's end before it allocates memory for them. If a field is told twice, the
    last value counts. The cause is not chained, because its text is unescaped and may be of any
    length.
    """
    if len(frame) > most:
        raise ProtocolMismatch(
            f"the {peer} sent a message of {len(frame)} bytes, and {most} is the most; ask for "
            "less at once, or install the same version of streamerd on both sides"
        )
    try:
        return decoder.decode(frame)
    except msgspec.DecodeError as error:
        reason = _reason(str(error))
    except UnicodeDecodeError:
        reason = "a text in it is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except (MemoryError, OverflowError, ValueError) as error:
        reason = f"{type(error).__name__} on the way"
    raise ProtocolMismatch(
        f"the {peer} sent a message that protocol {PROTOCOL} does not know ({reason}); "
        "install the same version of streamerd on both sides"
    )


def _reason(told: str) -> str:
    """What msgspec says, without names of the frame that could not be names of this protocol."""
    quoted = _QUOTED.search(told)
    if quoted is None:
        return printable(told)
    name = quoted[1]
    if name.isprintable() and len(name) <= _NAME_CHARACTERS:
        return told
    return f"a name in it is no word of the protocol, {len(name)} characters long"
