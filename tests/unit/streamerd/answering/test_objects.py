"""The callers who get objects of which only a listing has told."""

from __future__ import annotations

from tests.support.in_loop import in_loop
from tests.support.paper_daemon import PaperClient, PaperDaemon, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.storage.contract import StoredShard
from streamerd.workers import jobs

ONE, OTHER = {"KEY": "one"}, {"KEY": "other"}


def stored(number: int, *, looked_at: bool = False, etag: str = "x") -> StoredShard:
    identity = f's3:aws 100 - "{etag}"'
    return StoredShard(f"s3://bucket/{number}", 100, identity, looked_at=looked_at)


BOTH = (stored(1, looked_at=True), stored(2))


async def opens(
    daemon: PaperDaemon,
    client: PaperClient,
    environment: dict[str, str],
    found: tuple[StoredShard, ...] = BOTH,
    load: int = 1,
) -> None:
    """Ask for a prefix, and let a listing answer."""
    client.say(m.Open(load, load, "s3://bucket/", environment=environment))
    asked = daemon.workers.take(jobs.Resolve)
    asked.on_answer(jobs.Resolved(asked.job.job, found))
    await daemon.settle()


async def looked(
    daemon: PaperDaemon,
    environment: dict[str, str],
    *numbers: int,
    refused: bool = False,
    etag: str = "x",
) -> None:
    """Answer the HEADs that were asked for, which are of these objects and with these
    credentials.
    """
    asked = daemon.workers.take(jobs.LookAt)
    assert isinstance(asked.job, jobs.LookAt)
    assert asked.job.uris == tuple(f"s3://bucket/{number}" for number in numbers)
    assert asked.job.environment == environment
    if refused:
        asked.on_answer(jobs.JobFailed(asked.job.job, "source-forbidden", "Access Denied"))
    else:
        found = tuple(stored(number, looked_at=True, etag=etag) for number in numbers)
        asked.on_answer(jobs.Resolved(asked.job.job, found))
    await daemon.settle()


@in_loop
async def test_who_comes_first_and_whoever_has_the_same_credentials_is_asked_nothing_more() -> None:
    async with paper_daemon() as daemon:
        for client in (daemon.connect(), daemon.connect(uid=7)):
            await opens(daemon, client, ONE)
            assert client.heard(m.Opened)
        assert daemon.workers.jobs_of(jobs.LookAt) == []
        assert daemon.shards() == 2


@in_loop
async def test_what_one_worker_learned_of_listings_is_told_to_the_next_that_lists() -> None:
    learned = [(("p", True), ("q", False)), (("p", False), ("q", None)), ()]
    told = []
    async with paper_daemon() as daemon:
        for load, each in enumerate(learned, 1):
            client = daemon.connect()
            client.say(m.Open(load, load, "s3://bucket/", environment=ONE))
            asked = daemon.workers.take(jobs.Resolve)
            assert isinstance(asked.job, jobs.Resolve)
            told.append(asked.job.listings)
            asked.on_answer(jobs.Resolved(asked.job.job, BOTH, each))
            await daemon.settle()
    assert told == [(), (("p", True), ("q", False)), (("p", False),)]


@in_loop
async def test_other_credentials_show_their_right_and_those_they_join_do_too() -> None:
    async with paper_daemon() as daemon:
        first, second, third = (daemon.connect() for _ in range(3))
        await opens(daemon, first, ONE)
        await opens(daemon, second, OTHER)
        await looked(daemon, OTHER, 2)
        assert second.heard(m.Opened) == []
        await looked(daemon, ONE, 2)
        assert second.heard(m.Opened)
        assert daemon.shards() == 2
        for environment in (ONE, OTHER):  # both credentials have shown their right to read
            await opens(daemon, third, environment, load=len(third.heard(m.Opened)) + 1)
        assert len(third.heard(m.Opened)) == 2


@in_loop
async def test_who_may_list_and_not_read_gets_nothing_of_what_others_read() -> None:
    async with paper_daemon() as daemon:
        good, bad = daemon.connect(), daemon.connect()
        await opens(daemon, good, ONE)
        await opens(daemon, bad, OTHER)
        await looked(daemon, OTHER, 2, refused=True)
        assert bad.hears(m.Failed).code == "source-forbidden"
        assert bad.heard(m.Opened) == []


@in_loop
async def test_who_was_first_and_may_not_read_shares_with_nobody() -> None:
    async with paper_daemon() as daemon:
        bad, good, better = (daemon.connect() for _ in range(3))
        await opens(daemon, bad, ONE)
        for client in (good, better):
            await opens(daemon, client, OTHER)
            await looked(daemon, OTHER, 2)
            await looked(daemon, ONE, 2, refused=True)
            assert client.heard(m.Opened)
        # The second object is two shards: one for the client that may only list it, and one for
        # the two clients that may read it.
        assert daemon.shards() == 3
        assert len(daemon.parts.model.loads) == 3


@in_loop
async def test_resident_bytes_prove_the_right_of_the_load_that_read_them() -> None:
    async with paper_daemon() as daemon:
        first, second = daemon.connect(), daemon.connect()
        await opens(daemon, first, ONE)
        await daemon.work()
        await opens(daemon, second, OTHER)
        await looked(daemon, OTHER, 2)
        assert second.heard(m.Opened)
        assert daemon.workers.jobs_of(jobs.LookAt) == []


@in_loop
async def test_what_stayed_after_its_load_is_looked_at_again() -> None:
    async with paper_daemon() as daemon:
        first, second = daemon.connect(), daemon.connect()
        await opens(daemon, first, ONE)
        await daemon.work()
        first.say(m.Close(1))
        await daemon.settle()
        assert daemon.shards() == 2
        await opens(daemon, second, ONE)
        await looked(daemon, ONE, 2)
        assert second.heard(m.Opened)


@in_loop
async def test_credentials_that_were_renewed_vouch_for_nobody() -> None:
    async with paper_daemon() as daemon:
        first, second = daemon.connect(), daemon.connect()
        await opens(daemon, first, ONE)
        await daemon.work()
        first.say(m.Renew(1, OTHER))
        await daemon.settle()
        await opens(daemon, second, OTHER)
        await looked(daemon, OTHER, 2)
        assert second.heard(m.Opened)


@in_loop
async def test_an_object_that_changed_since_the_listing_is_entered_as_it_is_now() -> None:
    async with paper_daemon() as daemon:
        first, second = daemon.connect(), daemon.connect()
        await opens(daemon, first, ONE)
        await opens(daemon, second, OTHER)
        await looked(daemon, OTHER, 2, etag="y")
        assert second.heard(m.Opened)
        assert daemon.shards() == 3
