"""A source that hangs for good: a FUSE file whose server stops answering reads and closes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.local_files import LocalFile
from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.slabs import create_slab, remove_slab, slab_name
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import LOST_THREADS
from tests.support.fuse_files import FuseFile, fuse_file
from tests.support.in_loop import in_loop, until
from tests.support.lending import BLOCK, ask, lent, opened_by, running_workers

LIMIT_S = 0.3
DATA = os.urandom(8 * BLOCK)


@pytest.fixture
def dead(tmp_path: Path) -> Iterator[FuseFile]:
    with fuse_file(tmp_path / "fuse", DATA) as mounted:
        yield mounted


@pytest.fixture
def shard(dead: FuseFile) -> StoredShard:
    (listed,) = LocalStorage().list_shards(dead.path, None, None)
    return listed


@pytest.fixture
def healthy(tmp_path: Path) -> StoredShard:
    (tmp_path / "m.safetensors").write_bytes(DATA)
    (listed,) = LocalStorage().list_shards(str(tmp_path / "m.safetensors"), None, None)
    return listed


@pytest.fixture
def slabs(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two slabs: one for the file that hangs, and one for a file that does not."""
    instance = secrets.token_hex(4)
    names = [slab_name(instance, f"/{number}", "1", 1) for number in range(2)]
    for name in names:
        os.close(create_slab(name, len(DATA)))
    yield names[0], names[1]
    for name in names:
        remove_slab(name)


def content(slab: str, start: int, stop: int) -> bytes:
    with open(SHM_MOUNT + slab, "rb") as file:
        return os.pread(file.fileno(), stop - start, start)


def threads_of(pid: int) -> list[str]:
    names = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with (
            contextlib.suppress(FileNotFoundError),  # the thread may have ended since
            open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as file,
        ):
            names.append(file.read().strip())
    return names


def expect_hung(answer: jobs.Answer | None) -> None:
    assert isinstance(answer, jobs.JobFailed)
    assert (answer.code, answer.hung) == ("source", True)
    assert f"did not answer within {LIMIT_S:g} s" in answer.message


@pytest.mark.parametrize("mapped", [False, True])
@in_loop
async def test_a_thread_that_was_given_up_never_writes_into_a_slab(
    dead: FuseFile,
    shard: StoredShard,
    healthy: StoredShard,
    slabs: tuple[str, str],
    mapped: bool,
) -> None:
    async with running_workers(threads=1, mapped=mapped) as made:
        with lent(made, slabs[0], shard) as given, lent(made, slabs[1], healthy) as other:
            assert isinstance(await ask(made, given.fetch(0)), jobs.Fetched)
            assert content(slabs[0], 0, BLOCK) == DATA[:BLOCK]
            (pid,) = made.pids
            threads = len(threads_of(pid))
            with dead.hanging():
                hung = asyncio.create_task(ask(made, given.fetch(1), limit_s=LIMIT_S))
                # These jobs wait behind the hung one for the lane's only thread. They have waited
                # for less time, so they are not given up with it.
                behind = [
                    asyncio.create_task(ask(made, other.fetch(block), limit_s=LIMIT_S))
                    for block in range(8)
                ]
                expect_hung(await hung)
                for answer in await asyncio.gather(*behind):
                    assert isinstance(answer, jobs.Fetched)
                assert content(slabs[1], 0, len(DATA)) == DATA
                assert (made.lost_threads, made.retired, made.restarts) == (1, 0, 0)
                assert made.pids == [pid]
                assert len(threads_of(pid)) == threads + 1
                # The worker can close the slab of a job that was given up, and closes it, so that
                # the memory comes back.
                for fd in made.lending.take_back(given.slab):
                    os.close(fd)
                await until(lambda: not opened_by(pid, SHM_MOUNT + slabs[0]))
            await until(lambda: len(threads_of(pid)) == threads)
            assert content(slabs[0], BLOCK, 2 * BLOCK) == bytes(BLOCK)


@in_loop
async def test_a_worker_with_several_lost_threads_is_retired(
    dead: FuseFile, shard: StoredShard, healthy: StoredShard, slabs: tuple[str, str]
) -> None:
    async with running_workers(threads=2) as made:
        with lent(made, slabs[0], shard) as given, lent(made, slabs[1], healthy) as other:
            (old,) = made.pids
            with dead.hanging():
                asked = (ask(made, given.fetch(b), limit_s=LIMIT_S) for b in range(LOST_THREADS))
                for answer in await asyncio.gather(*asked):
                    expect_hung(answer)
                assert (made.lost_threads, made.retired) == (LOST_THREADS, 1)
                # The daemon can start a worker although it has the dead file open.
                for block in range(8):
                    assert isinstance(await ask(made, other.fetch(block)), jobs.Fetched)
                assert content(slabs[1], 0, len(DATA)) == DATA
                assert made.pids != [old]
                assert made.restarts == 0
            # The old worker was killed long ago, but the kernel ends no process whose read a FUSE
            # server has taken.
            await until(lambda: not os.access(f"/proc/{old}/cmdline", os.R_OK))
            assert isinstance(await ask(made, given.fetch(0)), jobs.Fetched)
            assert content(slabs[0], 0, BLOCK) == DATA[:BLOCK]


@in_loop
async def test_stopping_waits_for_nobody_who_is_stuck(
    dead: FuseFile, shard: StoredShard, slabs: tuple[str, str]
) -> None:
    async with running_workers(threads=LOST_THREADS) as made:
        with lent(made, slabs[0], shard) as given, dead.hanging():
            asked = (ask(made, given.fetch(b), limit_s=LIMIT_S) for b in range(LOST_THREADS))
            for answer in await asyncio.gather(*asked):
                expect_hung(answer)
            made.submit(given.fetch(0)(made.next_job()), lambda _: None)
            async with asyncio.timeout(8):
                await made.stop(0.1)


@in_loop
async def test_examining_and_closing_hang_nobody_else(
    dead: FuseFile, shard: StoredShard, healthy: StoredShard, slabs: tuple[str, str]
) -> None:
    file = LocalFile(shard.uri, direct=False)
    files = (jobs.ExamineFile(shard.uri, False, 1234),)
    async with running_workers() as made:
        answer = await ask(made, lambda job: jobs.Examine(job, files), (file.fd,))
        assert isinstance(answer, jobs.Examined)
        (found,) = answer.found
        assert isinstance(found, jobs.ExaminedFile)
        assert found.shard.identity == shard.identity + ":uid1234"
        with dead.hanging():
            answer = await ask(made, lambda job: jobs.Examine(job, files), (file.fd,), LIMIT_S)
            expect_hung(answer)
            source = made.lending.put_source(file.shard, (file.fd,))
            reread = await ask(
                made, lambda job: jobs.Reread(job, shard, source, {}, 0, 10), limit_s=LIMIT_S
            )
            expect_hung(reread)
            assert made.lending.take_back(source) == (file.fd,)
            with lent(made, slabs[1], healthy) as other:
                for block in range(8):
                    assert isinstance(await ask(made, other.fetch(block)), jobs.Fetched)
            assert opened_by(made.pids[0], shard.uri)
        await until(lambda: not opened_by(made.pids[0], shard.uri))
        file.close()
