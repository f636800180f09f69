"""The bytes of protocol 5, written down: a change that breaks the wire breaks this test.

After a change on purpose, raise `PROTOCOL` and write the file anew:
`python -m tests.contract.test_golden_messages > tests/contract/golden_messages.txt`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from tests.support.every_message import CLIENT, DAEMON, PACKETS_OF_CLIENT, PACKETS_OF_DAEMON

from streamer_client.contract import handover as h
from streamer_client.contract import messages as m
from streamer_client.contract.codec import decode_client, decode_daemon, encode

GOLDEN = Path(__file__).with_name("golden_messages.txt")


class Side(NamedTuple):
    """The messages that one side sends on one of the two sockets."""

    samples: Sequence[msgspec.Struct]
    encode: Callable[..., bytes]
    decode: Callable[[bytes], msgspec.Struct]


SIDES = {
    "client": Side(CLIENT, encode, decode_client),
    "daemon": Side(DAEMON, encode, decode_daemon),
    "client.fd": Side(PACKETS_OF_CLIENT, h.encode_packet, h.decode_from_client),
    "daemon.fd": Side(PACKETS_OF_DAEMON, h.encode_packet, h.decode_from_daemon),
}
"""The sides by name; those whose name ends in `.fd` speak on the descriptor socket."""


def rendered() -> str:
    lines = [f"# protocol {m.PROTOCOL}: side, message, bytes of its frame without the token"]
    for name, side in SIDES.items():
        lines += [f"{name} {type(one).__name__} {side.encode(one).hex()}" for one in side.samples]
    return "\n".join(lines) + "\n"


def test_encoding_is_as_written_down() -> None:
    assert rendered().splitlines() == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("line", GOLDEN.read_text().splitlines()[1:], ids=lambda line: line[:20])
def test_what_was_written_down_is_still_understood(line: str) -> None:
    name, kind, frame = line.split()
    side = SIDES[name]
    (sample,) = (one for one in side.samples if type(one).__name__ == kind)
    assert side.decode(bytes.fromhex(frame)) == sample


if __name__ == "__main__":
    print(rendered(), end="")  # noqa: T201
