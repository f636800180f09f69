"""Workers are lent each slab and file once, with the first job that needs it, and drop it when it
is old or taken back.
"""

from __future__ import annotations

import msgspec
import pytest

from streamer_client.storage.contract import StoredShard
from streamerd.workers.in_daemon.lending import KEPT_ENVIRONMENTS, OPEN_SLABS, Lending
from streamerd.workers.jobs import (
    Checksum,
    CloseSlab,
    Drop,
    DropEnvironment,
    Fetch,
    Forget,
    TakeEnvironment,
    TakeSlab,
    TakeSource,
)

SHARD = StoredShard("/m/a", 10, "file:1")

Sent = tuple[msgspec.Struct, tuple[int, ...]]


class Worker:
    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.withdrawn: list[tuple[int, ...]] = []

    def send(self, message: msgspec.Struct, fds: tuple[int, ...] = ()) -> None:
        self.sent.append((message, fds))

    def withdraw(self, fds: tuple[int, ...]) -> None:
        self.withdrawn.append(fds)

    def take(self) -> list[Sent]:
        sent, self.sent = self.sent, []
        return sent


@pytest.fixture
def lending() -> Lending:
    return Lending()


@pytest.fixture
def workers(lending: Lending) -> tuple[Worker, Worker]:
    made = Worker(), Worker()
    for worker in made:
        lending.joined(worker)
    return made


def fetch(slab: int, source: int | None) -> Fetch:
    return Fetch(1, slab, SHARD, source, {}, 0, 10)


def test_each_worker_is_lent_once_what_its_jobs_name(
    lending: Lending, workers: tuple[Worker, Worker]
) -> None:
    one, two = workers
    slab, source = lending.put_slab(100), lending.put_source(SHARD, (101, 102))
    assert slab != source
    lending.supply(one, fetch(slab, source))
    assert one.take() == [
        (TakeSlab(slab), (100,)),
        (TakeSource(source, SHARD), (101, 102)),
    ]
    lending.supply(one, fetch(slab, source))
    lending.supply(one, CloseSlab(2, 77))
    assert one.take() == []
    lending.supply(two, Checksum(3, slab, 0, 1))
    assert two.take() == [(TakeSlab(slab), (100,))]
    lending.left(one)
    lending.joined(one)  # a worker that was started again has nothing
    lending.supply(one, fetch(slab, None))
    assert one.take() == [(TakeSlab(slab), (100,))]


def test_what_is_taken_back_is_dropped_where_it_is_held(
    lending: Lending, workers: tuple[Worker, Worker]
) -> None:
    one, two = workers
    slab, source = lending.put_slab(100), lending.put_source(SHARD, (101,))
    lending.supply(one, fetch(slab, source))
    one.take()
    assert lending.take_back(slab) == (100,)
    assert lending.take_back(source) == (101,)
    assert one.take() == [(Drop(slab), ()), (Drop(source), ())]
    assert two.take() == []
    assert one.withdrawn == two.withdrawn == [(100,), (101,)]
    assert lending.take_back(slab) == ()
    assert len(lending) == 0
    # Nothing is sent for a handle that was taken back; the job then fails in the worker.
    lending.supply(two, fetch(slab, source))
    assert two.take() == []
    assert lending.put_slab(100) not in (slab, source)


def test_the_least_recently_used_goes_first(
    lending: Lending, workers: tuple[Worker, Worker]
) -> None:
    one, _ = workers
    slabs = [lending.put_slab(fd) for fd in range(OPEN_SLABS + 1)]
    for slab in slabs[:-1]:
        lending.supply(one, fetch(slab, None))
    lending.supply(one, fetch(slabs[0], None))
    one.take()
    lending.supply(one, fetch(slabs[-1], None))
    assert one.take() == [(Drop(slabs[1]), ()), (TakeSlab(slabs[-1]), (OPEN_SLABS,))]
    lending.supply(one, fetch(slabs[1], None))
    assert one.take() == [(Drop(slabs[2]), ()), (TakeSlab(slabs[1]), (1,))]


def remote(digest: str) -> Fetch:
    return Fetch(1, 0, SHARD, None, {"KEY": f"of {digest}"}, 0, 10, digest)


def test_an_environment_is_sent_once_and_jobs_come_without_it(
    lending: Lending, workers: tuple[Worker, Worker]
) -> None:
    one, two = workers
    for worker in workers:
        for _ in range(2):
            sent = lending.supply(worker, remote("d"))
            assert sent == Fetch(1, 0, SHARD, None, {}, 0, 10, "d")
        assert worker.take() == [(TakeEnvironment("d", {"KEY": "of d"}), ())]
    assert "of d" not in repr(TakeEnvironment("d", {"KEY": "of d"}))
    forget = Forget(2, "d")
    assert lending.supply(one, forget) == forget
    lending.supply(one, remote("d"))
    lending.supply(two, remote("d"))
    assert one.take() == [(TakeEnvironment("d", {"KEY": "of d"}), ())], "it was told to forget it"
    assert two.take() == []


def test_the_environment_used_longest_ago_is_dropped(
    lending: Lending, workers: tuple[Worker, Worker]
) -> None:
    worker, _ = workers
    for number in range(KEPT_ENVIRONMENTS):
        lending.supply(worker, remote(str(number)))
    lending.supply(worker, remote("0"))
    worker.take()
    lending.supply(worker, remote("new"))
    assert [type(message) for message, _ in worker.take()] == [DropEnvironment, TakeEnvironment]
    lending.supply(worker, remote("0"))
    assert worker.take() == []
    lending.supply(worker, remote("1"))
    assert TakeEnvironment("1", {"KEY": "of 1"}) in [message for message, _ in worker.take()]


def test_a_job_with_an_environment_and_no_digest_is_sent_whole(
    lending: Lending, workers: tuple[Worker, Worker]
) -> None:
    job = Fetch(1, 0, SHARD, None, {"KEY": "1"}, 0, 10)
    assert lending.supply(workers[0], job) == job
