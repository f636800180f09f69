"""Evict, pin and unpin: by file, and by the names that the same user gave."""

from __future__ import annotations

from tests.support.in_loop import in_loop
from tests.support.paper_daemon import (
    BLOCK,
    PaperClient,
    PaperDaemon,
    PaperFile,
    file,
    paper_daemon,
)

from streamer_client.contract import messages as m

MINE, THEIRS, ROOT = 1000, 2000, 0


async def resident(daemon: PaperDaemon, *files: PaperFile, uid: int = MINE) -> PaperClient:
    """Bring files in; returns a client of the same user that leases nothing."""
    client = daemon.connect(uid)
    client.open(*files, hold=True)
    await daemon.work()
    client.say(m.Close(1))
    await daemon.work()
    return client


async def pinned(daemon: PaperDaemon, one: PaperFile, client: PaperClient) -> m.Message:
    client.say(m.Pin(1, "/nowhere", client.hand_over(one)))
    await daemon.work()
    return last(client)


async def unpinned(daemon: PaperDaemon, one: PaperFile, client: PaperClient) -> m.Message:
    client.say(m.Unpin(1, "/nowhere", client.hand_over(one)))
    await daemon.work()
    return last(client)


def last(client: PaperClient) -> m.Message:
    return client.daemon.control.sent[client.session.name][-1]


@in_loop
async def test_a_file_counts_whatever_it_is_called() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        client = daemon.connect(THEIRS)
        client.say(m.Evict(1, ("/another/name",), client.hand_over(one)))
        await daemon.work()
        assert last(client) == m.Done(1, "1 shard, 192 KiB released")
        assert daemon.shards() == 0


@in_loop
async def test_a_name_counts_for_the_user_who_gave_it() -> None:
    async with paper_daemon() as daemon:
        await resident(daemon, file(1), uid=MINE)
        stranger = daemon.connect(THEIRS)
        for request in (m.Evict(1, ("/world/1",)), m.Pin(1, "/world/1"), m.Verify(1, "/world")):
            stranger.say(request)
            await daemon.work()
            assert stranger.hears(m.Failed).code == "source-not-found"
        assert daemon.shards() == 1
        own = daemon.connect(MINE)
        own.say(m.Evict(1, ("/world/1",)))
        await daemon.work()
        assert isinstance(last(own), m.Done)
        assert daemon.shards() == 0


@in_loop
async def test_root_knows_everybodys_names() -> None:
    async with paper_daemon() as daemon:
        await resident(daemon, file(1), uid=MINE)
        root = daemon.connect(ROOT)
        root.say(m.Evict(1, ("/world",)))
        await daemon.work()
        assert isinstance(last(root), m.Done)


@in_loop
async def test_a_folder_and_no_part_of_a_name() -> None:
    async with paper_daemon() as daemon:
        client = await resident(daemon, file(1), file(12))
        for name in ("/worl", "/world/", "/world/1"):
            client.say(m.Pin(1, name))
            await daemon.work()
        failed, everything, one = daemon.control.sent[client.session.name][-3:]
        assert isinstance(failed, m.Failed)
        assert everything == m.Done(1, "2 shards pinned")
        assert one == m.Done(1, "1 shard pinned")


@in_loop
async def test_whoever_pinned_may_unpin() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        mine = await resident(daemon, one)
        assert await pinned(daemon, one, mine) == m.Done(1, "1 shard pinned")
        assert await unpinned(daemon, one, mine) == m.Done(1, "1 shard unpinned")
        refused = await unpinned(daemon, one, mine)
        assert isinstance(refused, m.Failed)
        assert "is not pinned" in refused.message


@in_loop
async def test_another_user_may_not() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        mine, theirs = await resident(daemon, one), daemon.connect(THEIRS)
        await pinned(daemon, one, mine)
        refused = await unpinned(daemon, one, theirs)
        assert isinstance(refused, m.Failed)
        assert refused.code == "refused"
        assert f"pinned by user {MINE}" in refused.message
        assert daemon.shard(one).pinned


@in_loop
async def test_what_two_pinned_stays_until_both_unpin() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        mine, theirs = await resident(daemon, one), daemon.connect(THEIRS)
        for client in (mine, theirs):
            await pinned(daemon, one, client)
        told = await unpinned(daemon, one, mine)
        assert told == m.Done(1, "0 shards unpinned, 1 stay pinned by others")
        assert daemon.shard(one).pinned
        assert await unpinned(daemon, one, theirs) == m.Done(1, "1 shard unpinned")
        assert not daemon.shard(one).pinned


@in_loop
async def test_root_ends_every_pin() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        mine, theirs = await resident(daemon, one), daemon.connect(THEIRS)
        for client in (mine, theirs):
            await pinned(daemon, one, client)
        root = daemon.connect(ROOT)
        assert await unpinned(daemon, one, root) == m.Done(1, "1 shard unpinned")
        assert not daemon.shard(one).pinned


@in_loop
async def test_a_prefetch_that_pins_is_its_users() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        mine, theirs = daemon.connect(MINE), daemon.connect(THEIRS)
        mine.say(m.Prefetch(1, "/world", mine.hand_over(one), pin=True))
        await daemon.work()
        assert daemon.shard(one).pinned
        assert isinstance(await unpinned(daemon, one, theirs), m.Failed)
        assert isinstance(await unpinned(daemon, one, mine), m.Done)


@in_loop
async def test_what_is_leased_or_pinned_is_not_evicted() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        mine = await resident(daemon, one)
        await pinned(daemon, one, mine)
        mine.say(m.Evict(2, ("/world",)))
        assert "is pinned" in mine.hears(m.Failed).message
        await unpinned(daemon, one, mine)
        reader = daemon.connect()
        reader.open(one, hold=True)
        await daemon.work()
        mine.say(m.Evict(2, ("/world",)))
        assert "in use by pid" in mine.hears(m.Failed).message
        assert "(rank)" in mine.hears(m.Failed).message


@in_loop
async def test_without_a_name_all_goes_that_nobody_keeps() -> None:
    async with paper_daemon() as daemon:
        kept, free = file(1), file(2)
        mine = await resident(daemon, kept, free)
        await pinned(daemon, kept, mine)
        daemon.connect(THEIRS).say(m.Evict(1))
        await daemon.work()
        assert daemon.shards() == 1
        assert daemon.shard(kept).resident_bytes == 3 * BLOCK
