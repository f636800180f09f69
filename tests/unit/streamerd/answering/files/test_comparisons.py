"""A few pages of each file are compared with its slab before a load may succeed."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tests.support.in_loop import in_loop, until
from tests.support.paper_daemon import (
    BLOCK,
    PaperClient,
    PaperDaemon,
    PaperFile,
    file,
    paper_daemon,
)

from streamer_client.contract import messages as m
from streamer_client.contract.layout import PAGE_BYTES, SAMPLES, sample_starts
from streamerd.workers import jobs


@given(size_bytes=st.integers(1, 1 << 44))
def test_sampled_pages_are_spread_from_the_first_to_the_last(size_bytes: int) -> None:
    starts = sample_starts(size_bytes)
    pages = -(-size_bytes // PAGE_BYTES)
    assert len(set(starts)) == min(SAMPLES, pages)
    assert starts[0] == 0
    assert starts[-1] == (pages - 1) * PAGE_BYTES
    assert all(start % PAGE_BYTES == 0 for start in starts)
    gaps = [after - before for before, after in pairwise(starts)]
    assert not gaps or max(gaps) - min(gaps) <= PAGE_BYTES


def test_at_least_sixteen_and_none_of_an_empty_file() -> None:
    assert SAMPLES >= 16
    assert sample_starts(0) == ()
    assert sample_starts(1) == (0,)
    assert sample_starts(5 * PAGE_BYTES) == tuple(range(0, 5 * PAGE_BYTES, PAGE_BYTES))


async def resident(daemon: PaperDaemon, one: PaperFile) -> None:
    """Bring a file into memory, with a client that then leaves."""
    client = daemon.connect()
    client.open(one, hold=True)
    await daemon.work()
    client.leave()
    await daemon.work()


async def opened(daemon: PaperDaemon, one: PaperFile, uid: int = 1000) -> PaperClient:
    """A client whose open was answered, while the comparison is still under way."""
    client = daemon.connect(uid)
    client.open(one, hold=True)
    await daemon.answer(jobs.Examine)
    return client


@in_loop
async def test_nothing_is_compared_of_what_is_not_in_memory() -> None:
    async with paper_daemon() as daemon:
        client = await opened(daemon, file(1))
        assert client.heard(m.Opened)[0].compared
        assert not daemon.workers.jobs_of(jobs.Compare)
        await daemon.work()
        assert not client.heard(m.Compared)


@in_loop
async def test_a_newcomers_file_is_compared_while_the_load_goes_on() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        client = await opened(daemon, one)
        (answer,) = client.heard(m.Opened)
        assert not answer.compared
        assert [(r.start, r.stop) for r in answer.granted] == [(0, 3)]
        assert not client.heard(m.Compared)
        await daemon.work()
        assert client.hears(m.Compared) == m.Compared(1)


@in_loop
async def test_another_files_bytes_under_the_same_numbers_fail_the_load() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.rewrite(2, 99, tell=False)
        client = await opened(daemon, one)
        await daemon.work()
        failed = client.hears(m.ShardFailed)
        assert (failed.load, failed.shard, failed.code) == (1, 0, "source-changed")
        assert not client.heard(m.Compared)
        client.say(m.Close(1))
        client.open(one, load=2, hold=True)
        await daemon.work()
        slab = daemon.workers.slabs[daemon.parts.backings[daemon.shard(one).key].slab_fd]
        assert slab == dict(enumerate(one.content))


@in_loop
async def test_a_difference_ends_the_others_loads_too() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        reader = daemon.connect()
        reader.open(one, hold=True)
        await daemon.work()
        one.rewrite(0, 99, tell=False)
        await opened(daemon, one)
        await daemon.work()
        assert reader.hears(m.ShardFailed).code == "source-changed"


@in_loop
async def test_blocks_given_up_meanwhile_are_no_difference() -> None:
    async with paper_daemon(limit_blocks=4) as daemon:
        one = file(1)
        await resident(daemon, one)
        client = daemon.connect()
        client.open(one, want="none")
        await daemon.answer(jobs.Examine)
        compare = daemon.workers.take(jobs.Compare)
        daemon.connect().open(file(2, blocks=8))
        await daemon.work()
        assert daemon.shard(one).resident_bytes < 3 * BLOCK
        # A worker begins the comparison only after a block was punched out of the slab.
        compare.on_answer(daemon.workers.answer(compare))
        await daemon.work()
        assert not client.heard(m.ShardFailed)
        assert client.hears(m.Compared)


@in_loop
async def test_a_worker_that_dies_over_it_is_replaced_by_another_look() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        client = await opened(daemon, one)
        await daemon.lose(jobs.Compare)
        assert len(daemon.workers.jobs_of(jobs.Compare)) == 1
        assert not client.heard(m.Compared)
        await daemon.work()
        assert client.hears(m.Compared)


@in_loop
async def test_a_file_that_cannot_be_read_fails_its_load_alone() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        reader = daemon.connect()
        reader.open(one, hold=True)
        await daemon.work()
        client = await opened(daemon, one, uid=2000)
        failure = jobs.CompareFailure(0, "source", "it cannot be read")
        await daemon.answer(jobs.Compare, jobs.Compared(0, (), (failure,)))
        await daemon.work()
        assert client.hears(m.ShardFailed).message == "it cannot be read"
        assert not reader.heard(m.ShardFailed)
        assert not client.heard(m.Compared)


@in_loop
async def test_a_look_that_hangs_is_limited() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        await opened(daemon, one)
        (asked,) = daemon.workers.asked
        assert asked.limit_s == daemon.parts.settings.source_wait_s


@in_loop
async def test_who_leaves_meanwhile_leaves_no_descriptor() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        client = await opened(daemon, one)
        client.leave()
        await daemon.work()
        await until(lambda: daemon.open_descriptors() == 0)
