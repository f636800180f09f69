"""Loads of clients: the opens that are refused, and the end of a client's loads when it leaves."""

from __future__ import annotations

from unittest import mock

from tests.support.in_loop import in_loop
from tests.support.paper_daemon import file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.layout import BlockRange
from streamer_client.storage.contract import StoredShard
from streamerd.answering.objects import LISTING_WAIT_S
from streamerd.workers import jobs


def stored(number: int) -> StoredShard:
    return StoredShard(f"s3://bucket/{number}", 100, f"etag{number}")


@in_loop
async def test_a_load_of_this_number_is_open_already() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1), load=3)
        await daemon.work()
        client.open(file(2), load=3)
        assert "is open already" in client.hears(m.Failed).message


@in_loop
async def test_a_number_may_be_used_again_after_a_refused_open() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.say(m.Open(1, 3, "/a/path"))
        assert client.hears(m.Failed).code == "protocol-mismatch"
        client.open(file(1), load=3)
        await daemon.work()
        assert client.heard(m.Opened)[-1].load == 3


@in_loop
async def test_a_client_opens_only_so_many_loads_at_once() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        with mock.patch("streamerd.answering.loads.MAX_REQUESTS", 2):
            for load in (1, 2, 3):
                client.say(m.Open(load, load, "s3://bucket/"))
        assert "2 loads of this client are being opened" in client.hears(m.Failed).message
        (one, _two) = (daemon.workers.take(jobs.Resolve) for _ in range(2))
        assert one.limit_s == LISTING_WAIT_S


@in_loop
async def test_a_client_has_only_so_many_loads() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1), load=1)
        await daemon.work()
        with mock.patch("streamerd.answering.loads.MAX_LOADS", 1):
            client.open(file(2), load=2)
        assert "1 loads of this client are open" in client.hears(m.Failed).message


@in_loop
async def test_what_is_found_for_a_client_that_has_left_opens_nothing() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.say(m.Open(1, 1, "s3://bucket/"))
        asked = daemon.workers.take(jobs.Resolve)
        client.leave()
        asked.on_answer(jobs.Resolved(asked.job.job, (stored(1),)))
        await daemon.settle()
        assert daemon.parts.model.loads == {}
        assert daemon.parts.backings == {}


@in_loop
async def test_what_is_found_for_a_load_that_was_closed_opens_nothing() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.say(m.Open(1, 1, "s3://bucket/"))
        client.say(m.Close(1))
        client.say(m.Open(2, 1, "s3://bucket/"))
        first, second = (daemon.workers.take(jobs.Resolve) for _ in range(2))
        first.on_answer(jobs.Resolved(first.job.job, (stored(1),)))
        await daemon.settle()
        assert client.heard(m.Opened) == []
        second.on_answer(jobs.Resolved(second.job.job, (stored(2),)))
        await daemon.settle()
        assert [opened.request_id for opened in client.heard(m.Opened)] == [2]


@in_loop
async def test_an_object_without_a_validator_is_a_shard_of_its_own() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        unvalidated = StoredShard("s3://bucket/1", 100, "", validated=False)
        for load in (1, 2):
            client.say(m.Open(load, load, "s3://bucket/"))
            asked = daemon.workers.take(jobs.Resolve)
            asked.on_answer(jobs.Resolved(asked.job.job, (unvalidated,)))
            await daemon.settle()
        assert daemon.shards() == 2


@in_loop
async def test_blocks_that_a_load_has_not_are_refused() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1, blocks=3))
        await daemon.work()
        for ranges in ((0, 2, 4), (0, 2, 1), (1, 0, 1), (-1, 0, 1)):
            client.say(m.Consumed(1, (BlockRange(*ranges),)))
            assert "has no blocks" in client.hears(m.Failed).message
        # The daemon does not know load 2, as if it had ended, and so ignores the message.
        client.say(m.Consumed(2, (BlockRange(0, 0, 9),)))
        assert len(client.heard(m.Failed)) == 4
