"""The wire's decisions without a socket: which messages are joined, and when the daemon counts as
silent.
"""

from __future__ import annotations

import pytest

from streamer_client.connecting.wire import MISSED_HEARTBEATS, DaemonSilent, Pulse, coalesced
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


# --- heartbeats -----------------------------------------------------------------------------------


@pytest.fixture
def pulse() -> Pulse:
    made = Pulse("/run/s")
    made.heartbeat_s = 2.0
    return made


def test_no_heartbeat_before_the_daemon_said_how_often() -> None:
    made = Pulse("/run/s")
    assert made.due_s(5.0) is None
    assert not made.beats(5.0)


def test_a_heartbeat_each_so_many_seconds(pulse: Pulse) -> None:
    assert pulse.due_s(10.0) == 0.0
    assert pulse.beats(10.0)
    assert not pulse.beats(11.9)
    assert pulse.due_s(11.5) == 0.5
    assert pulse.beats(12.0)


def test_a_daemon_that_answers_none_of_three_is_silent(pulse: Pulse) -> None:
    for beat in range(MISSED_HEARTBEATS):
        assert pulse.beats(2.0 * beat)
    with pytest.raises(DaemonSilent, match="/run/s left 3 heartbeats unanswered"):
        pulse.beats(2.0 * MISSED_HEARTBEATS)


def test_any_message_shows_that_it_lives(pulse: Pulse) -> None:
    for beat in range(5 * MISSED_HEARTBEATS):
        assert pulse.beats(2.0 * beat)
        pulse.heard()


def test_a_client_that_was_stopped_for_long_asks_before_it_gives_up(pulse: Pulse) -> None:
    assert pulse.beats(0.0)
    assert pulse.beats(3600.0)
    assert not pulse.beats(3600.1)
