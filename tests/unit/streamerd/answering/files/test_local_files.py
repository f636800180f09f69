"""Files that clients handed over become shards: one shard for all names, read through
these files.
"""

from __future__ import annotations

from tests.support.in_loop import in_loop, until
from tests.support.paper_daemon import BLOCK, file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.layout import BlockRange
from streamerd.reading.backing import Name
from streamerd.workers import jobs


@in_loop
async def test_a_file_of_two_names_is_one_shard() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        first, second = daemon.connect(), daemon.connect(uid=2000)
        for client in (first, second):
            client.open(one, hold=True)
        await daemon.work()
        assert daemon.shards() == 1
        assert daemon.parts.read_totals.source_bytes == 3 * BLOCK
        names = daemon.parts.backings[daemon.shard(one).key].names
        assert list(names) == [Name(1000, 7, "/world/1"), Name(2000, 7, "/world/1")]


@in_loop
async def test_a_file_named_twice_in_one_load_is_leased_twice() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        client = daemon.connect()
        client.open(one, one, hold=True)
        await daemon.work()
        (answer,) = client.heard(m.Opened)
        assert [shard.uri for shard in answer.shards] == ["/world/1", "/world/1"]
        granted = [r for told in client.heard(m.Granted) for r in told.ranges]
        assert {r.shard for r in granted} == {0, 1}
        assert not client.heard(m.Failed)


@in_loop
async def test_descriptors_are_closed_when_nothing_is_left_to_read() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        client.say(m.Drop(1))
        await daemon.settle()
        assert daemon.open_descriptors() == 1
        await daemon.work()
        await until(lambda: daemon.open_descriptors() == 0)


@in_loop
async def test_a_read_that_fails_through_one_is_repeated_through_anothers() -> None:
    async with paper_daemon() as daemon:
        mine, theirs = file(1), file(1)
        mine.broken = True
        first, second = daemon.connect(), daemon.connect(uid=2000)
        first.open(mine, want="none")
        second.open(theirs, want="none")
        await daemon.work()
        first.say(m.Want(1, (BlockRange(0, 0, 3),)))
        await daemon.work()
        assert not first.heard(m.ShardFailed)
        assert sum(r.stop - r.start for told in first.heard(m.Granted) for r in told.ranges) == 3


@in_loop
async def test_it_fails_when_it_fails_through_all() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        one.broken = True
        client = daemon.connect()
        client.open(one)
        await daemon.work()
        (failed,) = client.heard(m.ShardFailed)
        assert failed.message == "it cannot be read"


@in_loop
async def test_the_others_go_on_when_the_one_who_is_read_through_leaves() -> None:
    async with paper_daemon() as daemon:
        one = file(1, blocks=8)
        first, second = daemon.connect(), daemon.connect(uid=2000)
        for client in (first, second):
            client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        await daemon.answer(jobs.Examine)
        await daemon.answer(jobs.Fetch)
        first.leave()
        await daemon.work()
        assert sum(r.stop - r.start for told in second.heard(m.Granted) for r in told.ranges) == 8


@in_loop
async def test_a_prefetch_goes_on_when_whoever_asked_has_left() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        client = daemon.connect()
        transfer = client.hand_over(one)
        client.say(m.Prefetch(1, "/world", transfer))
        await daemon.answer(jobs.Examine)
        assert client.heard(m.Accepted)
        client.leave()
        await daemon.work()
        assert daemon.shard(one).resident_bytes == 3 * BLOCK


@in_loop
async def test_a_file_that_is_refused_refuses_the_load() -> None:
    async with paper_daemon() as daemon:
        one = file(2, refusal="/world/2: is a directory")
        client = daemon.connect()
        request = client.open(file(1), one)
        await daemon.work()
        failed = client.hears(m.Failed)
        assert (failed.request_id, failed.message) == (request, "/world/2: is a directory")
        assert daemon.shards() == 0
        client.leave()
        await until(lambda: daemon.open_descriptors() == 0)


@in_loop
async def test_nothing_is_noted_of_an_open_that_was_closed_before_it_was_examined() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1))
        client.say(m.Close(1))
        await daemon.work()
        assert daemon.shards() == 0
        assert daemon.parts.backings == {}
        assert not client.heard(m.Opened)
