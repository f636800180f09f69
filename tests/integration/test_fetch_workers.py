"""The fleet with real processes: bytes, deaths, back-off, and a worker that cannot start."""

from __future__ import annotations

import asyncio
import functools
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import posix_ipc
import pytest
import xxhash

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.local_files import LocalFile, open_local
from streamerd.memory.room import SHM_MOUNT
from streamerd.shm.slabs import allocated_bytes, create_slab, remove_slab, slab_name
from streamerd.workers import jobs
from streamerd.workers.in_daemon.lending import OPEN_SOURCES
from streamerd.workers.in_daemon.supervisor import Fleet
from streamerd.workers.in_worker.examining import disk_of
from tests.support.checkpoints import write_model
from tests.support.in_loop import in_loop, until
from tests.support.lending import (
    ANSWER_S,
    BLOCK,
    Lent,
    ask,
    fds_of,
    fleet,
    lent,
    opened_by,
    slab_fd,
)


@pytest.fixture
def stored(tmp_path: Path) -> StoredShard:
    write_model(tmp_path / "m", shards=1, blocks=5)
    (shard,) = LocalStorage().list_shards(str(tmp_path / "m"), None, None)
    return shard


@pytest.fixture
def slab(stored: StoredShard, tmp_path: Path) -> Iterator[str]:
    name = slab_name(secrets.token_hex(4), stored.uri, stored.identity, 1)
    os.close(create_slab(name, stored.size_bytes))
    yield name
    remove_slab(name)


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


async def closed(made: Fleet, handle: int) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    made.broadcast(lambda job: jobs.CloseSlab(job, handle), lambda: done.set_result(None))
    await asyncio.wait_for(done, ANSWER_S)


@in_loop
async def test_a_file_is_read_through_its_descriptors_wherever_its_name_leads(
    stored: StoredShard, slab: str
) -> None:
    expected = bytes_of(stored.uri)
    async with fleet() as made:
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
    async with fleet() as made:
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
    async with fleet() as made:
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


@in_loop
async def test_examined_through_descriptors(stored: StoredShard, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "fifo")
    here = str(tmp_path)
    opened = {
        "plain": os.open(stored.uri, os.O_RDONLY),
        "empty": os.open(f"{here}/empty", os.O_RDWR),
        "fifo": os.open(f"{here}/fifo", os.O_RDONLY | os.O_NONBLOCK),
        "folder": os.open(here, os.O_RDONLY),
        "device": os.open("/dev/zero", os.O_RDONLY),
        "path only": os.open(stored.uri, os.O_PATH),
        "write only": os.open(stored.uri, os.O_WRONLY),
        "direct": os.open(stored.uri, os.O_RDONLY | os.O_DIRECT),
    }
    fds = tuple(opened.values())
    files = tuple(jobs.ExamineFile(name, False, 1000) for name in opened)
    async with fleet() as made:
        answer = await ask(made, lambda job: jobs.Examine(job, files), fds)
        assert isinstance(answer, jobs.Examined)
        found = dict(zip(opened, answer.found, strict=True))
        disk = disk_of(os.stat(stored.uri).st_dev)
        plain = found.pop("plain")
        assert isinstance(plain, jobs.ExaminedFile)
        assert plain.shard.identity == stored.identity + (f":disk{disk}" if disk else "")
        assert plain.shard.size_bytes == stored.size_bytes
        assert plain.ctime_ns == os.stat(stored.uri).st_ctime_ns
        assert not plain.direct_ok
        empty = found.pop("empty")
        assert isinstance(empty, jobs.ExaminedFile)
        assert empty.shard.size_bytes == 0
        told = {
            name: (refusal.code, refusal.message)
            for name, refusal in found.items()
            if isinstance(refusal, jobs.Refusal)
        }
        assert {name: code for name, (code, _) in told.items()} == {
            "fifo": "source",
            "folder": "source",
            "device": "source",
            "path only": "source-forbidden",
            "write only": "source-forbidden",
            "direct": "source",
        }
        for name, word in (("fifo", "a FIFO"), ("folder", "a folder"), ("device", "a device")):
            assert told[name][1].startswith(f"{name}: is {word}")
        (pid,) = made.pids
        await until(lambda: not opened_by(pid, stored.uri))
        wrong = await ask(made, lambda job: jobs.Examine(job, files), fds[:3])
        assert isinstance(wrong, jobs.JobFailed)
        assert "3 descriptors and not 8" in wrong.message
        await until(lambda: not opened_by(pid, stored.uri))
    for fd in fds:
        os.close(fd)


@in_loop
async def test_a_direct_descriptor_must_be_of_the_same_file(
    stored: StoredShard, tmp_path: Path
) -> None:
    (tmp_path / "other").write_bytes(bytes_of(stored.uri))
    file, other = LocalFile(stored.uri), LocalFile(str(tmp_path / "other"))
    if file.direct_fd is None or other.direct_fd is None:
        file.close()
        other.close()
        pytest.skip("the file system refuses O_DIRECT")
    pairs = [(file.fd, file.direct_fd), (file.fd, other.direct_fd), (file.fd, file.fd)]
    files = (jobs.ExamineFile(stored.uri, True, 0),) * 3
    fds = tuple(fd for pair in pairs for fd in pair)
    async with fleet() as made:
        answer = await ask(made, lambda job: jobs.Examine(job, files), fds)
    assert isinstance(answer, jobs.Examined)
    assert [isinstance(each, jobs.ExaminedFile) and each.direct_ok for each in answer.found] == [
        True,
        False,
        False,
    ]
    file.close()
    other.close()


@in_loop
async def test_compared_through_descriptors(stored: StoredShard, slab: str) -> None:
    size = stored.size_bytes
    starts = (0, BLOCK, size - 100)
    async with fleet() as made:
        with lent(made, slab, stored) as given:
            for block in range(5):
                await ask(made, given.fetch(block))
        into, file = slab_fd(slab), LocalFile(stored.uri)
        os.pwrite(into, b"\xff\0\xff", BLOCK + 4090)
        os.pwrite(into, b"\xff\0\xff", 4096)  # not looked at
        folder = os.open("/", os.O_RDONLY)
        files = (jobs.CompareFile(starts, size), jobs.CompareFile(starts, size))
        answer = await ask(
            made, lambda job: jobs.Compare(job, files), (into, file.fd, into, folder)
        )
        assert isinstance(answer, jobs.Compared)
        assert answer.differing == ((0, BLOCK),)
        assert [(failure.file, failure.code) for failure in answer.failed] == [(1, "source")]
        os.truncate(stored.uri, size - 1)
        answer = await ask(made, lambda job: jobs.Compare(job, files[:1]), (into, file.fd))
        assert isinstance(answer, jobs.Compared)
        assert answer.differing == ((0, BLOCK), (0, size - 100))
    for fd in (into, folder):
        os.close(fd)
    file.close()


@in_loop
async def test_a_worker_that_dies_answers_none_and_comes_back(
    stored: StoredShard, slab: str
) -> None:
    async with fleet(workers=2) as made:
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
            for block in range(5):  # the new one is lent everything anew
                assert isinstance(await ask(made, given.fetch(block)), jobs.Fetched)


@in_loop
async def test_jobs_wait_while_no_worker_lives(stored: StoredShard, slab: str) -> None:
    async with fleet(backoff_s=(0.2,)) as made:
        (pid,) = made.pids
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not made.pids)
        with lent(made, slab, stored) as given:
            assert isinstance(await ask(made, given.fetch(0)), jobs.Fetched)


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
    async with fleet(workers=2) as made:
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
    async with fleet() as made:
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
