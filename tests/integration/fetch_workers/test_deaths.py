"""Workers die, hang or cannot start: their jobs are answered, and others take their place."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys

import pytest

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import StoredShard
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers
from tests.support.in_loop import in_loop, until
from tests.support.lending import (
    ask,
    lent,
    running_workers,
)


def _restarted(made: Workers, times: int) -> bool:
    return made.restarts == times


@in_loop
async def test_a_worker_that_dies_answers_none_and_comes_back(
    stored: StoredShard, slab: str
) -> None:
    async with running_workers(workers=2) as made:
        with lent(made, slab, stored) as given:
            first, second = made.pids
            for pid in (first, second):
                os.kill(pid, signal.SIGSTOP)
            waiting = [asyncio.create_task(ask(made, given.fetch(b))) for b in range(4)]
            await asyncio.sleep(0)
            os.kill(first, signal.SIGKILL)
            os.kill(second, signal.SIGCONT)
            answers = await asyncio.gather(*waiting)
            assert sum(answer is None for answer in answers) == 2
            assert sum(isinstance(answer, jobs.Fetched) for answer in answers) == 2
            await until(lambda: len(made.pids) == 2)
            assert made.restarts == 1
            assert first not in made.pids
            for block in range(5):  # the new worker is lent everything again
                assert isinstance(await ask(made, given.fetch(block)), jobs.Fetched)


@in_loop
async def test_jobs_wait_while_no_worker_lives(stored: StoredShard, slab: str) -> None:
    async with running_workers(backoff_s=(0.2,)) as made:
        (pid,) = made.pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not made.pids)
        with lent(made, slab, stored) as given:
            assert isinstance(await ask(made, given.fetch(0)), jobs.Fetched)


@in_loop
async def test_deaths_in_a_row_are_answered_by_longer_pauses(
    caplog: pytest.LogCaptureFixture, stored: StoredShard, slab: str
) -> None:
    async with running_workers(backoff_s=(0.0, 0.01, 0.02)) as made:
        for deaths in range(1, 5):
            await until(lambda: made.pids)
            os.kill(made.pids[0], signal.SIGKILL)
            await until(functools.partial(_restarted, made, deaths))
        await until(lambda: made.pids)
        with lent(made, slab, stored) as given:
            assert isinstance(await ask(made, given.fetch(0)), jobs.Fetched)
        os.kill(made.pids[0], signal.SIGKILL)
        await until(lambda: made.restarts == 5)
    pauses = [r.getMessage().split("restart_in_s=")[1] for r in caplog.records]
    assert pauses == ["0", "0.01", "0.02", "0.02", "0"]
    assert all("exit=-9" in record.getMessage() for record in caplog.records)


@in_loop
async def test_the_death_of_the_process_that_starts_workers_is_made_good(
    stored: StoredShard, slab: str
) -> None:
    async with running_workers(workers=2) as made:
        before = made.pids
        child = made.spawner._child
        assert child is not None
        child.kill()
        await until(lambda: len(made.pids) == 2 and not set(before) & set(made.pids))
        with lent(made, slab, stored) as given:
            assert isinstance(await ask(made, given.fetch(0)), jobs.Fetched)


@in_loop
async def test_a_worker_that_cannot_start_stops_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StreamerError, match="ended at once"):
        async with running_workers(backoff_s=(60.0,)):
            pass
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StreamerError, match="cannot start a fetch worker"):
        async with running_workers():
            pass


@in_loop
async def test_stopping_with_jobs_under_way_calls_nobody_back(
    stored: StoredShard, slab: str
) -> None:
    called: list[object] = []
    async with running_workers() as made:
        with lent(made, slab, stored) as given:
            (pid,) = made.pids
            os.kill(pid, signal.SIGSTOP)
            for block in range(5):
                made.submit(given.fetch(block)(made.next_job()), called.append)
            os.kill(pid, signal.SIGKILL)
            await made.stop()
    made.submit(given.fetch(0)(made.next_job()), called.append)
    assert called == []
    assert made.pids == []


@in_loop
async def test_a_worker_that_was_stopped_is_ended_after_its_limit(
    stored: StoredShard, slab: str
) -> None:
    async with running_workers() as made:
        with lent(made, slab, stored) as given:
            (pid,) = made.pids
            os.kill(pid, signal.SIGSTOP)
            limited = asyncio.create_task(ask(made, given.fetch(0), limit_s=0.2))
            without = asyncio.create_task(ask(made, given.fetch(1)))
            answer = await limited
            assert isinstance(answer, jobs.JobFailed)
            assert answer.hung
            assert "within 0.2 s" in answer.message
            assert await without is None
            await until(lambda: made.pids)
            assert made.pids != [pid]
            assert isinstance(await ask(made, given.fetch(0), limit_s=5.0), jobs.Fetched)
