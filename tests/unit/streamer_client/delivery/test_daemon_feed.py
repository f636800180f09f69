"""Passes of a feed follow each other, and none takes a block away from the next one."""

from __future__ import annotations

from typing import cast

import pytest
from tests.support.overtaking import Overtaking
from tests.support.paper_connection import PaperConnection, shard

from streamer_client.connecting.link import Link
from streamer_client.connecting.source_access import SourceAccess
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import Consumed, Open
from streamer_client.contract.options import LoadOptions
from streamer_client.copy.feed import FeedClosed
from streamer_client.delivery.daemon_feed import DaemonFeed
from streamer_client.delivery.leased_load import LeasedLoad

ORDER = (BlockRange(0, 0, 4),)


class NoEnvironment:
    def resolved(self) -> dict[str, str]:
        return {}


class PaperLink:
    def __init__(self, connection: PaperConnection) -> None:
        self.connection = connection


def windowed(connection: PaperConnection) -> DaemonFeed:
    link = cast("Link", PaperLink(connection))
    request = Open(0, 0, "s3://b/m", options=LoadOptions(hold=False))
    return DaemonFeed(link, request, SourceAccess("s3://b/m", NoEnvironment()))


def window_twice() -> PaperConnection:
    return PaperConnection([shard("m", held=False)], [shard("m", held=False)])


def told(connection: PaperConnection) -> list[tuple[int, tuple[BlockRange, ...]]]:
    return [(one.load, one.ranges) for one in connection.sent if isinstance(one, Consumed)]


def test_a_consumed_block_is_given_back() -> None:
    connection = window_twice()
    feed = windowed(connection)
    number = feed.begin(ORDER)
    connection.grant(1, (0, 0, 1))
    feed.consumed(number, 0, 0)
    assert told(connection) == [(1, (BlockRange(0, 0, 1),))]
    feed.close()


def test_a_pass_that_is_over_gives_nothing_back() -> None:
    connection = window_twice()
    feed = windowed(connection)
    first = feed.begin(ORDER)
    connection.grant(1, (0, 0, 1))
    feed.begin(ORDER)
    connection.grant(2, (0, 0, 1))
    with pytest.raises(FeedClosed):
        feed.consumed(first, 0, 0)
    assert told(connection) == []
    feed.close()


def test_a_pass_that_begins_while_a_block_is_given_back_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copying thread has seen that its pass runs, and then the next pass overtakes it."""
    connection = window_twice()
    feed = windowed(connection)
    first = feed.begin(ORDER)
    connection.grant(1, (0, 0, 1))

    def next_pass() -> None:
        feed.begin(ORDER)
        connection.grant(2, (0, 0, 1))

    second = Overtaking(next_pass)
    looked_up = feed._source

    def stopped(shard: int, block: int) -> LeasedLoad | None:
        second.now()
        return looked_up(shard, block)

    monkeypatch.setattr(feed, "_source", stopped)
    feed.consumed(first, 0, 0)
    second.join()
    assert [load for load, _ in told(connection)] == [1]
    (running, *_) = feed._sources
    assert running.number == 2
    assert running.account.has(0, 0, 1), "the next pass reads it"
    feed.close()
