"""The fleet with real processes: bytes, deaths, back-off, and a worker that cannot start."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest
import xxhash

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.socket import instance_of
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage
from streamerd.shm.slabs import allocated_bytes, create_slab, remove_slab, slab_name
from streamerd.workers import jobs
from streamerd.workers.supervisor import Fleet
from tests.support.checkpoints import write_model
from tests.support.in_loop import in_loop, until

BLOCK = 64 << 10
ANSWER_S = 20.0


@contextlib.asynccontextmanager
async def fleet(
    workers: int = 1,
    threads: int = 2,
    backoff_s: tuple[float, ...] = (0.0,),
    *,
    mapped: bool | None = None,
) -> AsyncIterator[Fleet]:
    made = Fleet(workers, threads, "warning", backoff_s, mapped=mapped)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def ask(made: Fleet, build: Callable[[int], jobs.AnyJob]) -> jobs.Answer | None:
    answer: asyncio.Future[jobs.Answer | None] = asyncio.get_running_loop().create_future()
    made.submit(build(made.next_job()), answer.set_result)
    return await asyncio.wait_for(answer, ANSWER_S)


@pytest.fixture
def stored(tmp_path: Path) -> StoredShard:
    write_model(tmp_path / "m", shards=1, blocks=5)
    (shard,) = LocalStorage().list_shards(str(tmp_path / "m"), None, None)
    return shard


@pytest.fixture
def slab(stored: StoredShard, tmp_path: Path) -> Iterator[str]:
    name = slab_name(instance_of(str(tmp_path)), stored.uri, stored.identity, 1)
    create_slab(name, stored.size_bytes)
    yield name
    remove_slab(name)


def fetch(slab: str, shard: StoredShard, block: int) -> Callable[[int], jobs.Fetch]:
    start, stop = block * BLOCK, min((block + 1) * BLOCK, shard.size_bytes)
    return lambda number: jobs.Fetch(number, slab, shard, {}, start, stop)


def _restarted(made: Fleet, times: int) -> bool:
    return made.restarts == times


def bytes_of(path: str) -> bytes:
    return Path(path).read_bytes()


def content(slab: str, size_bytes: int) -> bytes:
    memory = posix_ipc.SharedMemory(slab, read_only=True)
    try:
        return os.pread(memory.fd, size_bytes, 0)
    finally:
        memory.close_fd()


@pytest.mark.parametrize("mapped", [False, True])
@in_loop
async def test_fetch_punch_and_close_bit_for_bit(
    stored: StoredShard, slab: str, mapped: bool
) -> None:
    expected = bytes_of(stored.uri)
    async with fleet(workers=2, mapped=mapped) as made:
        answers = await asyncio.gather(*(ask(made, fetch(slab, stored, b)) for b in range(5)))
        for block, answer in enumerate(answers):
            assert isinstance(answer, jobs.Fetched)
            part = expected[block * BLOCK : (block + 1) * BLOCK]
            assert answer.checksum == xxhash.xxh3_64_intdigest(part)
        assert content(slab, stored.size_bytes) == expected
        assert allocated_bytes(slab) == 5 * BLOCK
        summed = await ask(made, lambda number: jobs.Checksum(number, slab, BLOCK, 4 * BLOCK - 5))
        part = expected[BLOCK : 4 * BLOCK - 5]
        assert isinstance(summed, jobs.Checksummed)
        assert summed == jobs.Checksummed(summed.job, xxhash.xxh3_64_intdigest(part))
        punched = await ask(made, lambda number: jobs.Punch(number, slab, BLOCK, 3 * BLOCK))
        assert isinstance(punched, jobs.Finished)
        assert allocated_bytes(slab) == 3 * BLOCK
        assert content(slab, stored.size_bytes)[BLOCK : 3 * BLOCK] == bytes(2 * BLOCK)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        made.broadcast(lambda number: jobs.CloseSlab(number, slab), lambda: done.set_result(None))
        await asyncio.wait_for(done, ANSWER_S)
        for pid in made.pids:
            assert slab[1:] not in bytes_of(f"/proc/{pid}/maps").decode()


@in_loop
async def test_what_cannot_be_read_is_told_and_the_worker_goes_on(
    stored: StoredShard, slab: str, tmp_path: Path
) -> None:
    async with fleet() as made:
        answer = await ask(
            made, lambda number: jobs.Resolve(number, str(tmp_path / "nowhere"), None, None, {})
        )
        assert isinstance(answer, jobs.Failed)
        assert answer.code == "source-not-found"
        answer = await ask(made, fetch("/streamerd.none.none", stored, 0))
        assert isinstance(answer, jobs.Failed)
        answer = await ask(made, lambda number: jobs.Checksum(number, slab, 0, 9 * BLOCK))
        assert isinstance(answer, jobs.Failed)
        os.truncate(stored.uri, 10)
        answer = await ask(made, fetch(slab, stored, 0))
        assert isinstance(answer, jobs.Failed)
        assert (answer.code, answer.no_space) == ("source-changed", False)
        assert made.restarts == 0


@in_loop
async def test_a_worker_that_dies_answers_none_and_comes_back(
    stored: StoredShard, slab: str
) -> None:
    async with fleet(workers=2) as made:
        first, second = made.pids
        for pid in (first, second):
            os.kill(pid, signal.SIGSTOP)
        waiting = [asyncio.create_task(ask(made, fetch(slab, stored, b))) for b in range(4)]
        await asyncio.sleep(0)
        os.kill(first, signal.SIGKILL)
        os.kill(second, signal.SIGCONT)
        answers = await asyncio.gather(*waiting)
        assert sum(answer is None for answer in answers) == 2
        assert sum(isinstance(answer, jobs.Fetched) for answer in answers) == 2
        await until(lambda: len(made.pids) == 2)
        assert made.restarts == 1
        assert first not in made.pids
        assert isinstance(await ask(made, fetch(slab, stored, 4)), jobs.Fetched)


@in_loop
async def test_jobs_wait_while_no_worker_lives(stored: StoredShard, slab: str) -> None:
    async with fleet(backoff_s=(0.2,)) as made:
        (pid,) = made.pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not made.pids)
        assert isinstance(await ask(made, fetch(slab, stored, 0)), jobs.Fetched)


@in_loop
async def test_deaths_in_a_row_are_answered_by_longer_pauses(
    caplog: pytest.LogCaptureFixture, stored: StoredShard, slab: str
) -> None:
    async with fleet(backoff_s=(0.0, 0.01, 0.02)) as made:
        for deaths in range(1, 5):
            await until(lambda: made.pids)
            os.kill(made.pids[0], signal.SIGKILL)
            await until(functools.partial(_restarted, made, deaths))
        await until(lambda: made.pids)
        assert isinstance(await ask(made, fetch(slab, stored, 0)), jobs.Fetched)
        os.kill(made.pids[0], signal.SIGKILL)
        await until(lambda: made.restarts == 5)
    pauses = [r.getMessage().split("restart_in_s=")[1] for r in caplog.records]
    assert pauses == ["0", "0.01", "0.02", "0.02", "0"]


@in_loop
async def test_a_worker_that_cannot_start_stops_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StreamerError, match="ended at once"):
        async with fleet(backoff_s=(60.0,)):
            pass
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StreamerError, match="cannot start a fetch worker"):
        async with fleet():
            pass


@in_loop
async def test_stopping_with_jobs_under_way_calls_nobody_back(
    stored: StoredShard, slab: str
) -> None:
    called: list[object] = []
    async with fleet() as made:
        (pid,) = made.pids
        os.kill(pid, signal.SIGSTOP)
        for block in range(5):
            made.submit(fetch(slab, stored, block)(made.next_job()), called.append)
        os.kill(pid, signal.SIGKILL)
    made.submit(fetch(slab, stored, 0)(made.next_job()), called.append)
    assert called == []
    assert made.pids == []
