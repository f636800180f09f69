from __future__ import annotations

from streamer_client.connect.wire import coalesced
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import Consumed, Heartbeat, Message, Want


def consumed(load: int, block: int) -> Consumed:
    return Consumed(load, (BlockRange(0, block, block + 1),))


def test_runs_of_consumed_become_one_and_nothing_overtakes() -> None:
    want = Want(1, (BlockRange(0, 5, 6),))
    messages: list[Message] = [
        consumed(1, 2),
        consumed(1, 1),
        consumed(2, 0),
        want,
        consumed(1, 3),
        Heartbeat(),
        Heartbeat(),
    ]
    assert list(coalesced(messages)) == [
        Consumed(1, (BlockRange(0, 1, 3),)),
        consumed(2, 0),
        want,
        consumed(1, 3),
        Heartbeat(),
        Heartbeat(),
    ]
