"""When a client's connection is made anew, how long that is tried, and when it is not tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest

from streamer_client.connecting import link as link_module
from streamer_client.connecting.connection import Connection
from streamer_client.connecting.link import Link
from streamer_client.contract.errors import DaemonUnavailable, ProtocolMismatch, StreamerError


class Made:
    """A stand-in for one connection."""

    def __init__(self) -> None:
        self.alive = True
        self.ended = ""

    def refuse_after_fork(self) -> None: ...

    def close(self) -> None:
        self.ended += "closed "

    def abandon(self) -> None:
        self.ended += "abandoned "


Daemon = list[StreamerError | None]
"""The outcomes of the next attempts to connect: an error, or None for a daemon that answers."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[Daemon], list[Made]]:
    """Replaces `Connection.to` by the daemon's outcomes; returns the connections that were made."""

    def meet(daemon: Daemon) -> list[Made]:
        connections: list[Made] = []

        def to(_path: str, _label: str) -> Connection:
            if (error := daemon.pop(0)) is not None:
                raise error
            connections.append(Made())
            return cast("Connection", connections[-1])

        monkeypatch.setattr(Connection, "to", to)
        return connections

    monkeypatch.setattr(link_module, "RETRY_S", 0.0)
    return meet


GONE = DaemonUnavailable("nobody answers")


def test_a_living_connection_is_used_again(made: Callable[[Daemon], list[Made]]) -> None:
    connections = made([None])
    link = Link("/run/s", "rank 0")
    assert link.connection is link.connection
    assert len(connections) == 1


def test_a_lost_one_is_made_anew_once_a_daemon_is_back(
    made: Callable[[Daemon], list[Made]],
) -> None:
    connections = made([None, GONE, GONE, None])
    link = Link("/run/s", "rank 0", reconnect_s=60.0)
    connections[0].alive = False
    assert link.connection is cast("Connection", connections[1])


def test_after_a_while_it_is_given_up(made: Callable[[Daemon], list[Made]]) -> None:
    connections = made([None, GONE, None])
    link = Link("/run/s", "rank 0", reconnect_s=0.0)
    connections[0].alive = False
    with pytest.raises(DaemonUnavailable, match="nobody answers"):
        _ = link.connection
    assert link.connection is cast("Connection", connections[1]), "the next who asks may be luckier"


def test_a_daemon_of_another_version_is_not_asked_again(
    made: Callable[[Daemon], list[Made]],
) -> None:
    daemon: Daemon = [None, ProtocolMismatch("speaks another"), None]
    connections = made(daemon)
    link = Link("/run/s", "rank 0", reconnect_s=60.0)
    connections[0].alive = False
    with pytest.raises(ProtocolMismatch):
        _ = link.connection
    assert daemon == [None]


@pytest.mark.parametrize(
    ("leave", "ended"), [(Link.close, "closed "), (Link.abandon, "abandoned ")]
)
def test_who_left_does_not_come_back(
    made: Callable[[Daemon], list[Made]], leave: Callable[[Link], None], ended: str
) -> None:
    connections = made([None])
    link = Link("/run/s", "rank 0")
    leave(link)
    leave(link)
    connections[0].alive = False
    assert link.connection is cast("Connection", connections[0])
    assert connections[0].ended == ended
