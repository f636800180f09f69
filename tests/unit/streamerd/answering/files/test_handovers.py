"""Transfers: the daemon receives them batch by batch, workers examine them, and
requests name them.
"""

from __future__ import annotations

import resource
from unittest import mock

import pytest
from tests.support.in_loop import in_loop, until
from tests.support.paper_daemon import PaperDaemon, file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.errors import ProtocolMismatch, RequestRefused
from streamer_client.contract.handover import MAX_NAME_BYTES, Files, HandedFile
from streamerd.answering.files.handovers import EXAMINATIONS, MAX_FILES, MAX_TRANSFERS
from streamerd.workers import jobs


async def all_closed(daemon: PaperDaemon) -> None:
    """Check that no descriptor is open any more, once the closing threads are done."""
    await daemon.work()
    await until(lambda: daemon.open_descriptors() == 0)


@in_loop
async def test_batches_of_a_transfer_count_on() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        assert client.send_batch(5, file(1), file(2)) == 2
        assert client.send_batch(5, file(3)) == 3
        assert client.send_batch(6, file(4)) == 1


@in_loop
async def test_a_request_waits_until_all_of_its_transfer_is_examined() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.send_batch(1, file(1))
        client.send_batch(1, file(2))
        client.say(m.Open(1, 1, "/world", 1, want="none"))
        await daemon.answer(jobs.Examine)
        assert not client.heard(m.Opened)
        await daemon.answer(jobs.Examine)
        (opened,) = client.heard(m.Opened)
        assert [shard.uri for shard in opened.shards] == ["/world/1", "/world/2"]


@in_loop
async def test_one_transfer_serves_several_requests() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.hand_over(file(1))
        client.say(m.Open(1, 1, "/world", 1))
        client.say(m.Open(2, 2, "/world", 1))
        client.say(m.Prefetch(3, "/world", 1))
        await daemon.work()
        assert len(client.heard(m.Opened)) == 2
        assert client.heard(m.Accepted)


@in_loop
async def test_a_look_is_limited_in_time() -> None:
    async with paper_daemon() as daemon:
        daemon.connect().hand_over(file(1))
        (asked,) = daemon.workers.asked
        assert asked.limit_s == daemon.parts.settings.source_wait_s


@in_loop
async def test_a_file_system_that_answers_nobody_refuses_the_transfer() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1))
        await daemon.answer(jobs.Examine, jobs.JobFailed(0, "source", "no answer", hung=True))
        assert client.hears(m.Failed).message == "no answer"
        client.leave()
        await all_closed(daemon)


@in_loop
async def test_workers_that_die_over_a_batch_are_followed_by_others_a_few_times() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1))
        for _ in range(EXAMINATIONS - 1):
            await daemon.lose(jobs.Examine)
        assert not client.heard(m.Failed)
        await daemon.lose(jobs.Examine)
        assert "ended fetch workers" in client.hears(m.Failed).message
        assert not daemon.workers.asked
        client.leave()
        await all_closed(daemon)


@in_loop
async def test_a_refused_file_is_closed_and_its_transfer_says_why() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        good, bad = file(1), file(2, refusal="/world/2: opened without the right to read")
        client.open(good, bad, file(3))
        await daemon.work()
        assert client.hears(m.Failed).message == "/world/2: opened without the right to read"
        client.say(m.Drop(1))
        await all_closed(daemon)


@in_loop
async def test_what_is_dropped_is_closed_and_cannot_be_named() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        transfer = client.hand_over(file(1), direct=True)
        client.say(m.Drop(transfer))
        client.say(m.Drop(transfer))
        client.say(m.Open(1, 1, "/world", transfer))
        assert "was not begun" in client.hears(m.Failed).message
        await all_closed(daemon)


@in_loop
async def test_what_is_dropped_while_it_is_examined_answers_who_waits() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        client.open(file(1))
        client.say(m.Drop(1))
        await daemon.work()
        assert "dropped before it was used" in client.hears(m.Failed).message
        await all_closed(daemon)


@in_loop
async def test_a_session_takes_its_transfers_along() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        for number in range(1, 4):
            client.send_batch(number, file(number), file(10 + number))
        await daemon.answer(jobs.Examine)  # the other two batches have no answer yet
        client.leave()
        await all_closed(daemon)


@in_loop
async def test_anothers_transfer_cannot_be_named() -> None:
    async with paper_daemon() as daemon:
        mine, theirs = daemon.connect(), daemon.connect()
        transfer = theirs.hand_over(file(1))
        mine.say(m.Open(1, 1, "/world", transfer))
        assert "was not begun" in mine.hears(m.Failed).message


@in_loop
async def test_ranks_of_a_user_share_what_they_bring() -> None:
    async with paper_daemon() as daemon:
        one = file(1)
        ranks = [daemon.connect() for _ in range(8)]
        for rank in ranks:
            rank.open(one, want="none")
        other = daemon.connect(uid=2000)
        other.open(one, want="none")
        await daemon.work()
        assert all(rank.heard(m.Opened) for rank in ranks)
        await until(lambda: daemon.open_descriptors() == 2)
        for client in (*ranks, other):
            client.leave()
        await all_closed(daemon)


@in_loop
async def test_bounds_of_a_transfer() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()

        def refused(packet: Files, error: type[Exception], text: str) -> None:
            opened = [daemon.open(file(1)) for _ in packet.files]
            with pytest.raises(error, match=text):
                daemon.parts.handovers.take(client.session, packet, opened)

        one = (HandedFile("/a", direct=False),)
        refused(Files(0, one), ProtocolMismatch, "numbered from 1")
        refused(Files(-1, one), ProtocolMismatch, "numbered from 1")
        long = (HandedFile("ä" * (MAX_NAME_BYTES // 2 + 1), direct=False),)
        refused(Files(1, long), ProtocolMismatch, "bytes at most")
        for number in range(2, MAX_TRANSFERS + 1):
            client.send_batch(number, file(number))
        refused(Files(MAX_TRANSFERS + 1, one), RequestRefused, "drop one first")
        client.say(m.Drop(2))
        client.send_batch(MAX_TRANSFERS + 1, file(1))
        with mock.patch("streamerd.answering.files.handovers.MAX_FILES", 3):
            client.send_batch(3, file(90), file(91))
            refused(Files(3, one), RequestRefused, "files at most")
        assert MAX_FILES == 10_000
        client.leave()
        await all_closed(daemon)


@in_loop
async def test_a_file_that_is_called_like_an_object_is_refused() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect()
        for uri in ("evil://a/b", "https://a/b", "FILE:///a"):
            packet = Files(1, (HandedFile(uri, direct=False),))
            with pytest.raises(ProtocolMismatch, match="by its path, not by a URI"):
                daemon.parts.handovers.take(client.session, packet, [daemon.open(file(1))])
        client.leave()
        await all_closed(daemon)


@in_loop
async def test_one_users_files_leave_room_for_others() -> None:
    with mock.patch.object(resource, "getrlimit", return_value=(64, 64)):
        async with paper_daemon() as daemon:
            greedy, other = daemon.connect(1000), daemon.connect(2000)
            most = 16 - 16 // 8
            greedy.send_batch(1, *(file(number) for number in range(1, most + 1)))
            opened = [daemon.open(file(99))]
            packet = Files(1, (HandedFile("/a", direct=False),))
            with pytest.raises(RequestRefused, match="LimitNOFILE"):
                daemon.parts.handovers.take(greedy.session, packet, opened)
            other.send_batch(1, file(50))
            greedy.say(m.Drop(1))
            await daemon.work()
            # Each closed file makes room for one more, but the batch needs room for all its files.
            await until(lambda: not daemon.parts.handovers._unclosed(1000))
            greedy.send_batch(2, *(file(number) for number in range(1, most + 1)))
            greedy.leave()
            other.leave()
            await all_closed(daemon)
