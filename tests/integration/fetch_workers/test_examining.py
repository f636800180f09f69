"""Workers examine files through descriptors: identity, refusals, and pages that differ."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local_files import LocalFile
from streamerd.workers import jobs
from streamerd.workers.in_worker.examining import disk_of
from tests.support.in_loop import in_loop, until
from tests.support.lending import (
    BLOCK,
    ask,
    lent,
    opened_by,
    running_workers,
    slab_fd,
)
from tests.support.slab_bytes import bytes_of


def of_every_kind(stored: StoredShard, here: str) -> dict[str, int]:
    """Descriptors of each kind of file, by the kind."""
    os.close(os.open(f"{here}/empty", os.O_CREAT | os.O_WRONLY))
    os.mkfifo(f"{here}/fifo")
    return {
        "plain": os.open(stored.uri, os.O_RDONLY),
        "empty": os.open(f"{here}/empty", os.O_RDWR),
        "fifo": os.open(f"{here}/fifo", os.O_RDONLY | os.O_NONBLOCK),
        "folder": os.open(here, os.O_RDONLY),
        "device": os.open("/dev/zero", os.O_RDONLY),
        "path only": os.open(stored.uri, os.O_PATH),
        "write only": os.open(stored.uri, os.O_WRONLY),
        "direct": os.open(stored.uri, os.O_RDONLY | os.O_DIRECT),
    }


@in_loop
async def test_examined_through_descriptors(stored: StoredShard, tmp_path: Path) -> None:
    opened = of_every_kind(stored, str(tmp_path))
    fds = tuple(opened.values())
    files = tuple(jobs.ExamineFile(name, False, 1000) for name in opened)
    async with running_workers() as made:
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
        assert isinstance(empty := found.pop("empty"), jobs.ExaminedFile)
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
    async with running_workers() as made:
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
    async with running_workers() as made:
        with lent(made, slab, stored) as given:
            for block in range(5):
                await ask(made, given.fetch(block))
        into, file = slab_fd(slab), LocalFile(stored.uri)
        os.pwrite(into, b"\xff\0\xff", BLOCK + 4090)
        os.pwrite(into, b"\xff\0\xff", 4096)  # these bytes are not compared
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
