"""The worker that gets a job, and the fate of jobs where no worker lives."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import cast

from streamerd.workers.in_daemon.supervisor import Workers
from streamerd.workers.in_daemon.worker import Order, Worker
from streamerd.workers.jobs import Answer, CloseSlab, Resolve
from streamerd.workers.lanes import lane_of


class PaperWorker:
    """Notes the orders that it gets."""

    def __init__(self, *, alive: bool = True) -> None:
        self.alive = alive
        self.process = None
        self.orders: list[Order] = []
        self.starts = 0

    @property
    def busy(self) -> Counter[object]:
        return Counter(order.lane for order in self.orders)

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    async def start(self, options: tuple[str, ...]) -> None:
        del options
        self.starts += 1
        self.alive = True


def supervised(*workers: PaperWorker) -> Workers:
    made = Workers(len(workers), 2)
    made._workers = [cast("Worker", worker) for worker in workers]
    return made


def ignored(_answer: Answer | None) -> None:
    """Take the answer of a job that the test does not check."""


def jobs_of(worker: PaperWorker) -> list[int]:
    return [order.job.job for order in worker.orders]


def listing(number: int) -> Resolve:
    return Resolve(number, "s3://b/m", None, None, {})


def test_a_job_goes_to_the_living_worker_with_the_fewest_of_its_kind() -> None:
    first, second, dead = PaperWorker(), PaperWorker(), PaperWorker(alive=False)
    made = supervised(first, second, dead)
    for number in range(1, 4):
        made.submit(listing(number), ignored)
    assert lane_of(listing(1)) != lane_of(CloseSlab(1, 0))
    made.submit(CloseSlab(4, 0), ignored)
    assert (jobs_of(first), jobs_of(second)) == ([1, 3, 4], [2])
    assert not dead.orders


def test_jobs_wait_for_a_worker_to_start() -> None:
    async def play() -> None:
        worker = PaperWorker(alive=False)
        made = supervised(worker)
        made.submit(listing(1), ignored)
        made.submit(listing(2), ignored)
        assert not worker.orders
        await made._start_again(cast("Worker", worker))
        assert (worker.starts, jobs_of(worker)) == (1, [1, 2])

    asyncio.run(play())


def test_a_broadcast_is_done_when_no_worker_has_it_any_more() -> None:
    first, second = PaperWorker(), PaperWorker()
    made = supervised(first, second, PaperWorker(alive=False))
    done: list[str] = []
    made.broadcast(lambda job: CloseSlab(job, 7), lambda: done.append("done"))
    first.orders[0].on_answer(None)
    assert done == []
    second.orders[0].on_answer(None)
    assert done == ["done"]


def test_a_broadcast_to_nobody_is_done_at_once() -> None:
    done: list[str] = []
    supervised(PaperWorker(alive=False)).broadcast(
        lambda job: CloseSlab(job, 7), lambda: done.append("done")
    )
    assert done == ["done"]


def test_a_fleet_that_stops_takes_no_job() -> None:
    worker = PaperWorker()
    made = supervised(worker)
    made.stopping = True
    made.submit(listing(1), ignored)
    made.broadcast(lambda job: CloseSlab(job, 7), lambda: None)
    assert not worker.orders
