"""Ten thousand hostile frames to each side: each is refused in one line, or is a message like
others.
"""

from __future__ import annotations

from itertools import islice

import pytest

from streamer_client.contract.codec import decode_client, decode_daemon
from streamer_client.contract.messages import Message
from tests.hostile.judging import Decoder, judge_frame
from tests.hostile.mutations import bombard, frames, sequences
from tests.support.every_message import CLIENT, DAEMON

FRAMES = 10_000


@pytest.mark.parametrize("decode", [decode_client, decode_daemon], ids=["client", "daemon"])
@pytest.mark.parametrize("samples", [CLIENT, DAEMON], ids=["of clients", "of daemons"])
def test_mutated_messages(decode: Decoder, samples: tuple[Message, ...]) -> None:
    own = (decode is decode_client) == (samples is CLIENT)
    count = FRAMES if own else FRAMES // 10
    passed = sum(judge_frame(decode, frame) for frame in islice(frames(1, samples), count))
    if own:
        assert 0.01 * count < passed < 0.9 * count, "hitting nothing, or all, shows little"


def test_sequences_are_valid_message_by_message() -> None:
    for sequence in islice(sequences(1), 300):
        assert all(judge_frame(decode_client, frame) for frame in sequence)


def test_the_same_seed_gives_the_same_frames() -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    bombard(first.append, 7, 500)
    bombard(second.append, 7, 500)
    assert first == second
    assert len(first) == 500
