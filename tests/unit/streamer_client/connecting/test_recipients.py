"""The listeners that a message of the daemon reaches, and the errors that they get when the daemon
is lost.
"""

from __future__ import annotations

import os
from concurrent.futures import CancelledError

import pytest

from streamer_client.connecting.recipients import Recipients
from streamer_client.contract import messages as m
from streamer_client.contract.errors import (
    DaemonUnavailable,
    RequestRefused,
    SourceChanged,
    StreamerError,
)
from streamer_client.contract.layout import BlockRange

RANGES = (BlockRange(0, 0, 4),)
GONE = DaemonUnavailable("the daemon is gone")
OPENED = m.Opened(3, 7, 8 << 20, (), RANGES, 0)


class Load:
    """A listener that notes the messages that it gets."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def on_opened(self, message: m.Opened) -> None:
        self.heard.append(message)

    def on_slabs(self, shards: tuple[int, ...], descriptors: list[int]) -> None:
        self.heard.append((shards, descriptors))

    def on_comparing(self) -> None:
        self.heard.append("comparing")

    def on_compared(self) -> None:
        self.heard.append("compared")

    def on_granted(self, ranges: tuple[BlockRange, ...]) -> None:
        self.heard.append(ranges)

    def on_shard_failed(self, shard: int, error: StreamerError) -> None:
        self.heard.append((shard, type(error), str(error)))

    def on_waiting(self, message: m.Waiting) -> None:
        self.heard.append(message)

    def on_credentials_wanted(self) -> None:
        self.heard.append("credentials wanted")

    def on_lost(self, error: StreamerError) -> None:
        self.heard.append(error)


@pytest.fixture
def recipients() -> Recipients:
    return Recipients("/run/s")


TOLD: list[tuple[m.DaemonMessage, object]] = [
    (m.Granted(7, RANGES), RANGES),
    (m.ShardFailed(7, 2, "source-changed", "changed"), (2, SourceChanged, "changed")),
    (m.Waiting(7, 3, 2, 1), m.Waiting(7, 3, 2, 1)),
    (m.Comparing(7), "comparing"),
    (m.Compared(7), "compared"),
    (m.CredentialsWanted(7), "credentials wanted"),
    (OPENED, OPENED),
]


@pytest.mark.parametrize(("message", "heard"), TOLD, ids=lambda one: type(one).__name__)
def test_a_load_hears_what_concerns_it_until_it_leaves(
    recipients: Recipients, message: m.DaemonMessage, heard: object
) -> None:
    mine, others = Load(), Load()
    recipients.enter(7, mine)
    recipients.enter(8, others)
    recipients.receive(message)
    recipients.leave(7)
    recipients.leave(7)
    recipients.receive(message)
    assert (mine.heard, others.heard) == ([heard], [])


def test_an_opened_load_hears_of_it_before_the_request_is_answered(recipients: Recipients) -> None:
    load = Load()
    recipients.enter(7, load)
    answer = recipients.expect(3)
    answer.add_done_callback(lambda _: load.heard.append("answered"))
    recipients.receive(OPENED)
    assert load.heard == [OPENED, "answered"]


def test_an_answer_reaches_its_request_alone(recipients: Recipients) -> None:
    mine, others = recipients.expect(1), recipients.expect(2)
    recipients.receive(m.Done(1, "evicted"))
    assert recipients.awaited(mine, 0.0, lambda: False) == m.Done(1, "evicted")
    assert not others.done()


def test_what_nobody_waits_for_any_more_is_let_go(recipients: Recipients) -> None:
    answer = recipients.expect(1)
    recipients.forget(1)
    recipients.receive(m.Done(1))
    recipients.receive(m.Verifying(1, 1, 2))
    recipients.receive(m.Heartbeat())
    assert not answer.done()


def test_progress_comes_before_the_answer(recipients: Recipients) -> None:
    told: list[m.Verifying] = []
    answer = recipients.expect(1, told.append)
    recipients.receive(m.Verifying(1, 5, 10))
    assert (told, answer.done()) == ([m.Verifying(1, 5, 10)], False)


def test_a_refused_request_is_answered_and_a_refused_connection_ends(
    recipients: Recipients,
) -> None:
    answer = recipients.expect(1)
    recipients.receive(m.Failed(1, "refused", "no"))
    assert answer.result() == m.Failed(1, "refused", "no")
    with pytest.raises(RequestRefused, match="no sense"):
        recipients.receive(m.Failed(-1, "refused", "no sense"))


def test_a_wait_ends_in_time_or_when_it_is_cancelled(recipients: Recipients) -> None:
    answer = recipients.expect(1)
    with pytest.raises(DaemonUnavailable, match=r"/run/s did not answer within 0.0 s"):
        recipients.awaited(answer, 0.0, lambda: False)
    with pytest.raises(CancelledError):
        recipients.awaited(answer, 0.0, lambda: True)


def test_slabs_of_a_load_that_left_are_closed(recipients: Recipients) -> None:
    load = Load()
    recipients.enter(7, load)
    recipients.slabs(7, (0,), [99])
    assert load.heard == [((0,), [99])]
    descriptor = os.memfd_create("slab")
    recipients.slabs(8, (0,), [descriptor])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_everybody_who_waits_hears_of_the_end(recipients: Recipients) -> None:
    load = Load()
    recipients.enter(7, load)
    waiting, answered = recipients.expect(1), recipients.expect(2)
    recipients.receive(m.Done(2))
    recipients.lose(GONE)
    assert load.heard == [GONE]
    assert waiting.exception() is GONE
    assert answered.result() == m.Done(2)
