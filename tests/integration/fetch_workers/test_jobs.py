"""Real worker processes carry out each kind of job on real files and slabs."""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path

import pytest
import xxhash

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local_files import open_local
from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.slabs import allocated_bytes
from streamerd.workers import jobs
from streamerd.workers.in_daemon.lending import OPEN_SOURCES
from streamerd.workers.in_daemon.supervisor import Workers
from tests.support.in_loop import in_loop, until
from tests.support.lending import (
    ANSWER_S,
    BLOCK,
    Lent,
    ask,
    fds_of,
    lent,
    opened_by,
    running_workers,
)
from tests.support.slab_bytes import bytes_of, content


@pytest.mark.parametrize("mapped", [False, True])
@in_loop
async def test_fetch_punch_and_close_bit_for_bit(
    stored: StoredShard, slab: str, mapped: bool
) -> None:
    expected = bytes_of(stored.uri)
    async with running_workers(workers=2, mapped=mapped) as made:
        with lent(made, slab, stored) as given:
            answers = await asyncio.gather(*(ask(made, given.fetch(b)) for b in range(5)))
            for block, answer in enumerate(answers):
                assert isinstance(answer, jobs.Fetched)
                part = expected[block * BLOCK : (block + 1) * BLOCK]
                assert answer.checksum == xxhash.xxh3_64_intdigest(part)
                assert answer.ctime_ns == os.stat(stored.uri).st_ctime_ns
            assert content(slab, stored.size_bytes) == expected
            assert allocated_bytes(slab) == 5 * BLOCK
            start, stop = BLOCK, 4 * BLOCK - 5
            summed = await ask(made, lambda job: jobs.Checksum(job, given.slab, start, stop))
            digest = xxhash.xxh3_64_intdigest(expected[start:stop])
            assert isinstance(summed, jobs.Checksummed)
            assert summed == jobs.Checksummed(summed.job, digest)
            again = await ask(
                made, lambda job: jobs.Reread(job, stored, given.source, {}, start, stop)
            )
            assert isinstance(again, jobs.Checksummed)
            ctime_ns = os.stat(stored.uri).st_ctime_ns
            assert again == jobs.Checksummed(again.job, digest, ctime_ns)
            punched = await ask(made, lambda job: jobs.Punch(job, given.slab, BLOCK, 3 * BLOCK))
            assert isinstance(punched, jobs.Finished)
            assert allocated_bytes(slab) == 3 * BLOCK
            assert content(slab, stored.size_bytes)[BLOCK : 3 * BLOCK] == bytes(2 * BLOCK)
            for fd in made.lending.take_back(given.slab):
                os.close(fd)
            await closed(made, given.slab)
            for pid in made.pids:
                assert slab[1:] not in bytes_of(f"/proc/{pid}/maps").decode()
                assert not opened_by(pid, SHM_MOUNT + slab)
            late = await ask(made, given.fetch(0))
            assert isinstance(late, jobs.JobFailed)
            assert "was taken back before the job came" in late.message
        await until(lambda: not any(opened_by(pid, stored.uri) for pid in made.pids))


async def closed(made: Workers, handle: int) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    made.broadcast(lambda job: jobs.CloseSlab(job, handle), lambda: done.set_result(None))
    await asyncio.wait_for(done, ANSWER_S)


@in_loop
async def test_a_file_is_read_through_its_descriptors_wherever_its_name_leads(
    stored: StoredShard, slab: str
) -> None:
    expected = bytes_of(stored.uri)
    async with running_workers() as made:
        with lent(made, slab, stored) as given:
            os.unlink(stored.uri)
            with open(stored.uri, "wb") as other:  # noqa: ASYNC230  a test's own loop may wait
                other.write(b"another model")
            for block in range(5):
                assert isinstance(await ask(made, given.fetch(block)), jobs.Fetched)
            assert content(slab, stored.size_bytes) == expected


@in_loop
async def test_what_cannot_be_read_is_told_and_the_worker_goes_on(
    stored: StoredShard, slab: str
) -> None:
    async with running_workers() as made:
        answer = await ask(made, lambda job: jobs.Resolve(job, "/etc", None, None, {}))
        assert isinstance(answer, jobs.JobFailed)
        assert "passes descriptors" in answer.message
        with lent(made, slab, stored) as given:
            nobody = Lent(given.slab + 77, given.source, stored)
            answer = await ask(made, nobody.fetch(0))
            assert isinstance(answer, jobs.JobFailed)
            answer = await ask(made, lambda job: jobs.Checksum(job, given.slab, 0, 9 * BLOCK))
            assert isinstance(answer, jobs.JobFailed)
            os.truncate(stored.uri, 10)
            answer = await ask(made, given.fetch(0))
            assert isinstance(answer, jobs.JobFailed)
            assert (answer.code, answer.no_space) == ("source-changed", False)
        assert made.restarts == 0


@in_loop
async def test_more_than_a_worker_holds_at_once(tmp_path: Path) -> None:
    count = OPEN_SOURCES + 6
    for number in range(count):
        (tmp_path / f"m-{number}.safetensors").write_bytes(bytes([number]) * 100)
    files = open_local(str(tmp_path), None, None)
    async with running_workers() as made:
        handles = [made.lending.put_source(file.shard, fds_of(file)) for file in files]
        for _ in range(2):
            asked = (
                ask(made, functools.partial(_read_all, file.shard, handle))
                for file, handle in zip(files, handles, strict=True)
            )
            for number, answer in enumerate(await asyncio.gather(*asked)):
                assert isinstance(answer, jobs.Checksummed)
                assert answer.checksum == xxhash.xxh3_64_intdigest(bytes([number]) * 100)
        (pid,) = made.pids
        await until(lambda: sum(opened_by(pid, f.uri) > 0 for f in files) == OPEN_SOURCES)
        for file, handle in zip(files, handles, strict=True):
            assert made.lending.take_back(handle) == fds_of(file)
            file.close()
        await until(lambda: not any(opened_by(pid, file.uri) for file in files))


def _read_all(shard: StoredShard, source: int, job: int) -> jobs.Reread:
    return jobs.Reread(job, shard, source, {}, 0, shard.size_bytes)
