"""A load: its messages to the daemon, and how long callers wait in it."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Literal

import pytest
from tests.support.overtaking import Overtaking
from tests.support.paper_connection import PaperConnection, shard

from streamer_client.connecting.wire import DaemonSilent
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    SourceChanged,
    SourceForbidden,
    StreamerError,
)
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import Close, Consumed, Message, Open, Want
from streamer_client.delivery.leased_load import LeasedLoad

NEVER = bool


def opened(connection: PaperConnection, want: Literal["all", "none"] = "none") -> LeasedLoad:
    return LeasedLoad(connection.real, lambda request, load: Open(request, load, "/m", want=want))


def window(want: Literal["all", "none"] = "none") -> tuple[PaperConnection, LeasedLoad]:
    connection = PaperConnection([shard("a", held=False), shard("b", held=False)])
    return connection, opened(connection, want)


def held() -> tuple[PaperConnection, LeasedLoad]:
    connection = PaperConnection([shard("a", held=True), shard("b", held=True)])
    return connection, opened(connection)


def sent(connection: PaperConnection, kind: type[Message]) -> list[Message]:
    return [message for message in connection.sent if isinstance(message, kind)]


def test_what_the_open_asks_for_is_not_asked_for_again() -> None:
    connection, load = window("all")
    assert load.account.lacking
    assert not connection.sent


def test_consumed_blocks_are_told_before_more_is_wanted() -> None:
    connection, load = window()
    load.want([BlockRange(0, 0, 1)])
    connection.grant(1, (0, 0, 1))
    load.account.consume(0, 0, 1)
    load.want([BlockRange(1, 0, 1)])
    assert connection.sent[1:] == [
        Consumed(1, (BlockRange(0, 0, 1),)),
        Want(1, (BlockRange(1, 0, 1),)),
    ]


def test_a_block_that_is_wanted_again_was_told_to_be_consumed_before() -> None:
    """A copying thread has taken the blocks to report, and is overtaken before it reports them."""
    connection, load = window()
    again = Overtaking(lambda: load.want([BlockRange(0, 0, 1)]))
    load.want([BlockRange(0, 0, 1)])
    connection.grant(1, (0, 0, 1))
    load.account.consume(0, 0, 1)
    connection.before_sending[Consumed] = again.now
    load.give_back()
    again.join()
    assert [type(message) for message in connection.sent] == [Want, Consumed, Want]


def test_the_rest_of_a_held_load_follows_what_is_wanted_first() -> None:
    connection, load = held()
    load.want_all([BlockRange(1, 2, 3)])
    (want,) = sent(connection, Want)
    assert want == Want(
        1, (BlockRange(1, 2, 3), BlockRange(0, 0, 4), BlockRange(1, 0, 2), BlockRange(1, 3, 4))
    )


def test_what_is_granted_is_not_waited_for() -> None:
    connection, load = window()
    connection.grant(1, (0, 0, 2))
    assert load.wait(0, 0, 2, NEVER)


def test_an_interrupted_wait_returns() -> None:
    _, load = window()
    assert not load.wait(0, 0, 1, lambda: True)


def test_a_failed_shard_is_told_to_who_waits_for_it_and_to_nobody_else() -> None:
    connection, load = window()
    connection.grant(1, (1, 0, 1))
    connection.listeners[1].on_shard_failed(0, SourceForbidden("not for you"))
    with pytest.raises(SourceForbidden, match="not for you"):
        load.wait(0, 0, 1, NEVER)
    assert load.wait(1, 0, 1, NEVER)


def test_blocks_that_the_load_does_not_have_are_refused() -> None:
    connection, _ = window()
    with pytest.raises(ProtocolMismatch, match="shard 2"):
        connection.grant(1, (2, 0, 1))


@pytest.mark.parametrize(
    ("error", "readable"), [(DaemonUnavailable("died"), True), (DaemonSilent("silent"), False)]
)
def test_what_a_dead_daemon_granted_is_read_and_what_a_silent_one_did_is_not(
    error: StreamerError, readable: bool
) -> None:
    """A silent daemon may wake up and release blocks that are not held."""
    connection, load = window()
    connection.grant(1, (0, 0, 1))
    connection.listeners[1].on_lost(error)
    assert load.account.has(0, 0, 1) is readable
    assert not load.wait(1, 0, 1, NEVER)


def test_settling_waits_for_the_comparison_and_tells_a_difference() -> None:
    connection, load = held()
    load.settle(NEVER)
    connection.listeners[1].on_comparing()
    connection.listeners[1].on_shard_failed(0, SourceChanged("other bytes"))
    with pytest.raises(SourceChanged, match="other bytes"):
        load.settle(NEVER)


def test_a_loss_in_the_middle_of_comparing_leaves_the_load_unproven() -> None:
    connection, load = held()
    listener = connection.listeners[1]
    listener.on_comparing()
    listener.on_lost(DaemonUnavailable("died"))
    assert load.unproven
    load.compare_with([])
    assert not load.unproven


def test_closing_gives_everything_back_once() -> None:
    connection, load = window()
    connection.grant(1, (0, 0, 1))
    load.account.consume(0, 0, 1)
    load.close()
    load.close()
    assert connection.sent == [Consumed(1, (BlockRange(0, 0, 1),)), Want(1, ()), Close(1)]
    assert not connection.listeners


@pytest.mark.parametrize(
    ("answer", "error"), [(SourceForbidden("no"), SourceForbidden), (None, CancelledError)]
)
def test_an_open_that_fails_leaves_no_listener(
    answer: StreamerError | None, error: type[BaseException]
) -> None:
    connection = PaperConnection(answer)
    with pytest.raises(error):
        opened(connection)
    assert not connection.listeners
