"""The table of handlers: every message has one, and a request that fails is answered."""

from __future__ import annotations

from typing import get_args

import pytest
from tests.support.in_loop import in_loop
from tests.support.paper_daemon import file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.errors import RequestRefused
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.status import parse_status
from streamerd.answering.requests import NO_REQUEST


@in_loop
async def test_every_message_of_clients_has_a_handler() -> None:
    async with paper_daemon() as daemon:
        assert daemon.parts.requests.handled == set(get_args(m.ClientMessage))


@in_loop
async def test_a_message_has_one_handler() -> None:
    async with paper_daemon() as daemon:
        with pytest.raises(AssertionError, match="Heartbeat has two handlers"):
            daemon.parts.requests.on(m.Heartbeat, lambda _session, _message: None)


@in_loop
async def test_a_request_that_fails_is_answered_with_its_number() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.say(m.Unpin(7, "/nowhere"))
        failed = client.hears(m.Failed)
        assert (failed.request_id, failed.code) == (7, "source-not-found")


@in_loop
async def test_a_message_without_a_number_fails_as_such() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1))
        await daemon.work()
        client.say(m.Consumed(1, (BlockRange(0, 0, 99),)))
        assert client.hears(m.Failed).request_id == NO_REQUEST


@in_loop
async def test_what_was_said_before_counts_for_status() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1))
        await daemon.work()
        client.say(m.Close(1))
        client.say(m.GetStatus(9))
        (source,) = parse_status(client.hears(m.Status).body).sources
        (shard,) = source.shards
        assert shard.leases == ()


@in_loop
async def test_only_errors_meant_for_clients_are_answered() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()

        class Unheard(m.Message, frozen=True):
            """A message that only this test knows."""

        def refuse(_session: object, _message: object) -> None:
            raise RequestRefused("not now")

        daemon.parts.requests.on(Unheard, refuse)
        daemon.parts.requests.receive(client.session, Unheard())  # type: ignore[arg-type]
        assert "not now" in client.hears(m.Failed).message


@in_loop
async def test_status_has_shards_in_the_order_of_their_names() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(3), file(1), file(2))
        await daemon.work()
        client.say(m.GetStatus(9))
        (source,) = parse_status(client.hears(m.Status).body).sources
        assert [shard.uri for shard in source.shards] == ["/world/1", "/world/2", "/world/3"]
