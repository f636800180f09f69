"""Nothing is left of shards, sources, environments and slabs once the core has forgotten them."""

from __future__ import annotations

from unittest import mock

from tests.support.in_loop import in_loop
from tests.support.paper_daemon import BLOCK, file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.errors import MemoryLimitError
from streamer_client.contract.layout import BlockRange
from streamer_client.storage.contract import StoredShard
from streamerd.service import shards as shards_module
from streamerd.workers import jobs


@in_loop
async def test_an_entry_that_the_core_does_not_take_goes_after_its_turn() -> None:
    async with paper_daemon(limit_blocks=4) as daemon:
        client = daemon.connect()
        client.say(m.Prefetch(1, "/world", client.hand_over(file(1, blocks=9))))
        await daemon.work()
        assert client.hears(m.Failed).code == "memory-limit"
        assert daemon.parts.backings == {}
        assert daemon.open_descriptors() == 1  # the transfer holds this one


@in_loop
async def test_environments_go_with_their_loads() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.say(m.Open(1, 1, "s3://bucket/", environment={"AWS_SECRET_ACCESS_KEY": "x"}))
        asked = daemon.workers.take(jobs.Resolve)
        found = (StoredShard("s3://bucket/1", BLOCK, "etag"),)
        asked.on_answer(jobs.Resolved(asked.job.job, found))
        await daemon.settle()
        assert len(daemon.parts.environments) == 1
        with mock.patch.object(daemon.workers, "broadcast") as broadcast:
            client.say(m.Close(1))
            await daemon.settle()
        assert len(daemon.parts.environments) == 0
        broadcast.assert_called_once()
        assert isinstance(broadcast.call_args.args[0](1), jobs.Forget)


@in_loop
async def test_a_slab_that_cannot_be_made_fails_the_loads_that_wait_for_it() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        full = MemoryLimitError("no room on the mount")
        with mock.patch("streamerd.service.slabs.create_slab", side_effect=full):
            client.open(file(1))
            await daemon.work()
        assert client.heard(m.ShardFailed)[0].code == MemoryLimitError.code
        (failure,) = daemon.parts.shards.failures.values()
        assert failure.message == "no room on the mount"


@in_loop
async def test_only_the_last_failures_are_remembered_until_a_shard_is_opened_again() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        files = [file(inode, broken=True) for inode in (1, 2, 3)]
        with mock.patch.object(shards_module, "RECENT_FAILURES", 2):
            for load, one in enumerate(files, 1):
                client.open(one, load=load)
                await daemon.work()
                client.say(m.Close(load))
        await daemon.work()
        assert list(daemon.parts.shards.failures) == ["/world/2", "/world/3"]
        files[1].broken = False
        client.open(files[1], load=9)
        await daemon.work()
        assert list(daemon.parts.shards.failures) == ["/world/3"]


@in_loop
async def test_blocks_are_punched_again_when_the_worker_died() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1), hold=True)
        await daemon.work()
        client.say(m.Close(1))
        client.say(m.Evict(2, ("/world/1",)))
        await daemon.lose(jobs.Punch)
        assert client.heard(m.Done) == []
        await daemon.work()
        assert client.hears(m.Done).detail == "1 shard, 192 KiB released"
        assert daemon.shards() == 0


@in_loop
async def test_clients_hear_of_ranges_in_messages_of_a_bounded_size() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        ranges = tuple(BlockRange(0, block, block + 1) for block in range(5))
        client.open(file(1, blocks=9))
        await daemon.work()
        (key,) = daemon.parts.model.loads
        before = len(client.heard(m.Granted))
        with mock.patch("streamerd.service.answers.MAX_RANGES", 2):
            daemon.parts.answers.announce(key, ranges)
        told = [granted.ranges for granted in client.heard(m.Granted)[before:]]
        assert told == [ranges[:2], ranges[2:4], ranges[4:]]
