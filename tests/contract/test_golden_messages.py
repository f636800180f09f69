"""The bytes of protocol 3, written down: a change that breaks the wire breaks this test.

After a change on purpose, raise `PROTOCOL` and write the file anew:
`python -m tests.contract.test_golden_messages > tests/contract/golden_messages.txt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support.every_message import CLIENT, DAEMON

from streamer_client.contract import messages as m

GOLDEN = Path(__file__).with_name("golden_messages.txt")
SIDES: dict[str, Sequence[m.Message]] = {"client": CLIENT, "daemon": DAEMON}


def rendered() -> str:
    lines = [f"# protocol {m.PROTOCOL}: side, message, bytes of its frame"]
    for side, messages in SIDES.items():
        lines += [f"{side} {type(each).__name__} {m.encode(each).hex()}" for each in messages]
    return "\n".join(lines) + "\n"


def test_encoding_is_as_written_down() -> None:
    assert rendered().splitlines() == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize("line", GOLDEN.read_text().splitlines()[1:], ids=lambda line: line[:20])
def test_what_was_written_down_is_still_understood(line: str) -> None:
    side, name, frame = line.split()
    decode = m.decode_client if side == "client" else m.decode_daemon
    (sample,) = (each for each in SIDES[side] if type(each).__name__ == name)
    assert decode(bytes.fromhex(frame)) == sample


if __name__ == "__main__":
    print(rendered(), end="")  # noqa: T201
