"""Prefetches: the bytes that count against a user, and how long they count."""

from __future__ import annotations

import pytest
from tests.support.in_loop import in_loop
from tests.support.paper_daemon import BLOCK, PaperClient, file, paper_daemon

from streamer_client.contract import messages as m
from streamer_client.contract.errors import ConfigError
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.limits import MAX_PREFETCHES_PER_USER
from streamer_client.storage.contract import StoredShard
from streamerd.answering.files.local_files import FoundShard
from streamerd.answering.objects import LISTING_WAIT_S
from streamerd.answering.prefetches import first_bytes
from streamerd.state.events import ShardKey
from streamerd.workers import jobs

UID = 1000


def prefetch(client: PaperClient, request: int = 1, source: str = "s3://bucket/model") -> None:
    client.say(m.Prefetch(request, source))


@in_loop
async def test_a_listing_that_never_ends_is_given_up_and_counts_no_more() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(UID)
        prefetch(client, 5)
        assert daemon.parts.prefetches.under_way(UID) == 1
        asked = daemon.workers.take(jobs.Resolve)
        assert asked.limit_s == LISTING_WAIT_S
        asked.on_answer(jobs.JobFailed(asked.job.job, "source", "no answer", hung=True))
        assert client.hears(m.Failed).request_id == 5
        assert daemon.parts.prefetches.under_way(UID) == 0


@in_loop
async def test_a_prefetch_counts_on_when_its_client_has_left() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(UID)
        prefetch(client)
        client.leave()
        assert daemon.parts.prefetches.under_way(UID) == 1


@in_loop
async def test_a_user_has_only_so_many_under_way() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(UID)
        for number in range(MAX_PREFETCHES_PER_USER + 1):
            prefetch(client, number)
        failed = client.hears(m.Failed)
        assert (failed.request_id, failed.code) == (MAX_PREFETCHES_PER_USER, "refused")
        other = daemon.connect(UID + 1)
        prefetch(other)
        assert other.heard(m.Failed) == []


@in_loop
async def test_a_path_is_refused_and_does_not_count() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(UID)
        prefetch(client, source="/models/a")
        assert client.hears(m.Failed).code == "protocol-mismatch"
        assert daemon.parts.prefetches.under_way(UID) == 0


@in_loop
async def test_a_prefetch_that_is_done_counts_no_more() -> None:
    async with paper_daemon() as daemon:
        client = daemon.connect(UID)
        client.say(m.Prefetch(1, "/world", client.hand_over(file(1))))
        await daemon.work()
        assert client.hears(m.Accepted).total_bytes == 3 * BLOCK
        assert daemon.parts.prefetches.under_way(UID) == 0
        assert daemon.shard(file(1)).resident_bytes == 3 * BLOCK


def found(*sizes: int) -> tuple[FoundShard, ...]:
    return tuple(
        FoundShard(ShardKey(f"/{n}", ""), f"/{n}", StoredShard(f"/{n}", size, f"id{n}"))
        for n, size in enumerate(sizes)
    )


@pytest.mark.parametrize(
    ("limit_bytes", "blocks"),
    [(-1, [2, 1, 2]), (3 * BLOCK, [2, 1]), (2 * BLOCK + 5, [2]), (BLOCK, [1])],
)
def test_the_first_bytes_in_reading_order(limit_bytes: int, blocks: list[int]) -> None:
    shards = found(2 * BLOCK, BLOCK, 2 * BLOCK)
    chosen, wants = first_bytes(shards, limit_bytes, BLOCK)
    assert chosen == shards[: len(blocks)]
    assert list(wants) == [BlockRange(index, 0, count) for index, count in enumerate(blocks)]


def test_less_than_a_block_is_nothing() -> None:
    with pytest.raises(ConfigError, match="less than one block"):
        first_bytes(found(BLOCK), BLOCK - 1, BLOCK)
