"""A touched file is read again, and the checksums decide whether it has other bytes now."""

from __future__ import annotations

from tests.support.in_loop import in_loop, until
from tests.support.paper_daemon import BLOCK, PaperDaemon, PaperFile, file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.layout import BlockRange
from streamerd.workers import jobs


async def resident(daemon: PaperDaemon, one: PaperFile) -> None:
    client = daemon.connect()
    client.open(one, hold=True)
    await daemon.work()
    client.leave()
    await daemon.work()


def fetched_bytes(daemon: PaperDaemon) -> int:
    return daemon.parts.read_totals.source_bytes


def proof_bytes(daemon: PaperDaemon) -> int:
    return daemon.parts.read_totals.proof_bytes


@in_loop
async def test_a_file_that_nobody_touched_is_not_read_again() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        await resident(daemon, one)
        assert (fetched_bytes(daemon), proof_bytes(daemon)) == (3 * BLOCK, 0)


@in_loop
async def test_a_touched_file_is_proven_before_its_load_is_answered() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.touch()
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        assert len(daemon.workers.jobs_of(jobs.Reread)) == daemon.workers.slots == 2
        for _ in range(2):
            await daemon.answer(jobs.Reread)
        assert not client.heard(m.Opened)
        await daemon.answer(jobs.Reread)
        assert client.heard(m.Opened)
        await daemon.work()
        assert (fetched_bytes(daemon), proof_bytes(daemon)) == (3 * BLOCK, 3 * BLOCK)


@in_loop
async def test_a_doubt_is_resolved_once() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.touch()
        await resident(daemon, one)
        await resident(daemon, one)
        assert proof_bytes(daemon) == 3 * BLOCK


@in_loop
async def test_those_who_come_meanwhile_wait_for_the_same_look() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.touch()
        clients = [daemon.connect(uid) for uid in (1000, 2000)]
        for client in clients:
            client.open(one, hold=True)
        await daemon.work()
        assert all(client.heard(m.Opened) for client in clients)
        assert proof_bytes(daemon) == 3 * BLOCK


@in_loop
async def test_other_bytes_begin_a_new_edition_and_end_the_loads_of_the_old() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        reader = daemon.connect()
        reader.open(one, hold=True)
        await daemon.work()
        old = daemon.shard(one).key
        one.rewrite(1, 99)
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.work()
        assert reader.hears(m.ShardFailed).code == "source-changed"
        assert client.heard(m.Opened)
        assert not client.heard(m.ShardFailed)
        new = daemon.shard(one).key
        assert new.uri == old.uri
        assert new != old
        slab = daemon.workers.slabs[daemon.parts.backings[new].slab_fd]
        assert [slab[block] for block in range(3)] == one.content
        reader.leave()
        await daemon.work()
        assert old not in daemon.parts.model.shards


@in_loop
async def test_only_what_is_in_memory_is_looked_at() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        first = daemon.connect()
        first.open(one, want="none")
        await daemon.work()
        first.say(m.Want(1, (BlockRange(0, 0, 1),)))
        await daemon.work()
        one.touch()
        second = daemon.connect()
        second.open(one, want="none")
        await daemon.work()
        assert second.heard(m.Opened)
        assert proof_bytes(daemon) == BLOCK


@in_loop
async def test_a_file_that_is_touched_while_it_is_looked_at_is_looked_at_again() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.touch()
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        await daemon.answer(jobs.Reread)
        one.touch()
        other = daemon.connect(uid=2000)
        other.open(one, hold=True)
        await daemon.work()
        assert client.heard(m.Opened)
        assert other.heard(m.Opened)
        assert daemon.parts.backings[daemon.shard(one).key].ctime_ns == one.ctime_ns
        assert daemon.shard(one).resident_bytes == 3 * BLOCK


@in_loop
async def test_one_that_never_comes_to_rest_is_refused() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.touch()
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        while daemon.workers.jobs_of(jobs.Reread):
            one.touch()
            await daemon.answer(jobs.Reread)
        failed = client.hears(m.Failed)
        assert failed.code == "source-changed"
        assert "when nothing writes to it" in failed.message
        await daemon.work()
        assert daemon.shard(one).resident_bytes == 3 * BLOCK


@in_loop
async def test_a_worker_that_dies_over_it_costs_one_more_look() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.touch()
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        await daemon.lose(jobs.Reread)
        await daemon.work()
        assert client.heard(m.Opened)


@in_loop
async def test_a_newcomer_that_cannot_be_read_through_proves_nothing() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        reader = daemon.connect()
        reader.open(one, hold=True)
        await daemon.work()
        one.touch()
        one.broken = True
        client = daemon.connect(uid=2000)
        client.open(one, hold=True)
        await daemon.work()
        assert client.hears(m.Failed).code == "source"
        assert not reader.heard(m.ShardFailed)
        assert daemon.shard(one).resident_bytes == 3 * BLOCK


@in_loop
async def test_a_file_touched_during_a_load_is_proven_before_the_load_counts() -> None:
    async with paper_daemon() as daemon:
        one = file(1, blocks=8)
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        await daemon.answer(jobs.Fetch)
        one.touch()
        await daemon.work()
        kinds = [type(told) for told in daemon.control.sent[client.session.name]]
        assert m.Comparing in kinds
        assert kinds.index(m.Comparing) < kinds.index(m.Compared)
        assert client.heard(m.Comparing) == client.heard(m.Comparing)[:1]
        assert not client.heard(m.ShardFailed)
        slab = daemon.workers.slabs[daemon.parts.backings[daemon.shard(one).key].slab_fd]
        assert [slab[block] for block in range(8)] == one.content


@in_loop
async def test_a_file_rewritten_during_a_load_fails_it() -> None:
    async with paper_daemon() as daemon:
        one = file(1, blocks=8)
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        await daemon.answer(jobs.Fetch)
        one.rewrite(0, 99)
        await daemon.work()
        assert client.heard(m.ShardFailed)[0].code == "source-changed"
        assert not client.heard(m.Compared)


@in_loop
async def test_who_came_with_a_doubt_and_left_leaves_no_descriptor() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        await resident(daemon, one)
        one.touch()
        client = daemon.connect()
        client.open(one, hold=True)
        await daemon.answer(jobs.Examine)
        client.leave()
        await daemon.work()
        await until(lambda: daemon.open_descriptors() == 0)
