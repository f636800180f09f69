"""Running workers, a way to await their answers, and the slabs and files that they are lent."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local_files import LocalFile
from streamerd.memory.room import SHM_MOUNT
from streamerd.workers import jobs
from streamerd.workers.in_daemon.supervisor import Workers

BLOCK: Final = 64 << 10
ANSWER_S: Final = 20.0


@contextlib.asynccontextmanager
async def running_workers(
    workers: int = 1,
    threads: int = 2,
    backoff_s: tuple[float, ...] = (0.0,),
    *,
    mapped: bool | None = None,
) -> AsyncIterator[Workers]:
    made = Workers(workers, threads, "warning", backoff_s, mapped=mapped)
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def ask(
    made: Workers,
    build: Callable[[int], jobs.AnyJob],
    fds: tuple[int, ...] = (),
    limit_s: float | None = None,
) -> jobs.Answer | None:
    answer: asyncio.Future[jobs.Answer | None] = asyncio.get_running_loop().create_future()
    made.submit(build(made.next_job()), answer.set_result, fds, limit_s)
    return await asyncio.wait_for(answer, ANSWER_S)


def slab_fd(slab: str) -> int:
    return os.open(SHM_MOUNT + slab, os.O_RDWR | os.O_CLOEXEC)


def fds_of(file: LocalFile) -> tuple[int, ...]:
    return (file.fd,) if file.direct_fd is None else (file.fd, file.direct_fd)


@dataclass(frozen=True)
class Lent:
    """A slab and a file as workers are lent them."""

    slab: int
    source: int
    shard: StoredShard

    def fetch(self, block: int) -> Callable[[int], jobs.Fetch]:
        start, stop = block * BLOCK, min((block + 1) * BLOCK, self.shard.size_bytes)
        return lambda job: jobs.Fetch(job, self.slab, self.shard, self.source, {}, start, stop)


@contextlib.contextmanager
def lent(made: Workers, slab: str, stored: StoredShard) -> Iterator[Lent]:
    """Lend a slab and a file; take them back and close them at the end."""
    file = LocalFile(stored.uri)
    given = Lent(
        made.lending.put_slab(slab_fd(slab)),
        made.lending.put_source(file.shard, fds_of(file)),
        file.shard,
    )
    try:
        yield given
    finally:
        for fd in made.lending.take_back(given.slab):
            os.close(fd)
        made.lending.take_back(given.source)
        file.close()


def opened_by(pid: int, path: str) -> int:
    """How many descriptors of a file a process has."""
    count = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(f"/proc/{pid}/fd/{fd}") == path
    return count
