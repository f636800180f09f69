"""The carrier's answers if storage fails: typed, counted, and without a secret."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import xxhash

from streamer_client.contract.errors import CredentialsExpired, StreamerError
from streamer_client.storage.contract import Arrived, Reader, StoredShard
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.local_reader import LocalReader
from streamerd.log_lines import LineFormatter
from streamerd.workers import jobs
from streamerd.workers.in_worker import carrier as carrier_module
from streamerd.workers.in_worker import listing as listing_module
from streamerd.workers.in_worker import readers as readers_module
from streamerd.workers.in_worker.assignment import Assignment, GivenUp, Unyielding
from streamerd.workers.in_worker.borrowed import BorrowedSlab, BorrowedSource
from streamerd.workers.in_worker.carrier import Carrier
from streamerd.workers.jobs import digest_of

ENVIRONMENT = {"AWS_SECRET_ACCESS_KEY": "a-secret-key", "AWS_REGION": "eu-west-1"}


class Failing:
    """A storage whose errors repeat the texts that it was given."""

    error: type[Exception] = RuntimeError

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._text = f"bad: {dict(environment)}"

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        raise self.error(self._text)

    def list_all(self, source: str, take: object = None) -> tuple[StoredShard, ...]:
        raise self.error(self._text)

    def open(self, shard: StoredShard) -> Reader:
        raise self.error(self._text)


@pytest.mark.parametrize(
    ("error", "code"),
    [(RuntimeError, "internal"), (CredentialsExpired, "credentials-expired")],
)
def test_no_secret_leaves_a_failing_job(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: type[Exception],
    code: str,
) -> None:
    monkeypatch.setattr(Failing, "error", error)
    for module in (carrier_module, listing_module):
        monkeypatch.setattr(module, "storage_for", lambda _uri, env: Failing(env))
    made = Carrier()
    shard = StoredShard("s3://b/k", 10, "etag")
    for job in (
        jobs.Resolve(1, "s3://b", None, None, ENVIRONMENT),
        jobs.Reread(2, shard, None, ENVIRONMENT, 0, 10),
    ):
        answer = made.carry_out(made.take_on(Assignment(job)))
        assert isinstance(answer, jobs.JobFailed)
        assert answer.code == code
        assert "eu-west-1" in answer.message
        assert "a-secret-key" not in answer.message
    logged = "\n".join(map(LineFormatter("%(message)s").format, caplog.records))
    assert "a-secret-key" not in logged
    assert ("Traceback" in logged) == (error is RuntimeError)
    made.close()


class Keeping:
    """A storage and its reader that keep their environment, as those of all stores do."""

    made: list[Keeping]
    piece_bytes = retries = 0

    def __init__(self, _uri: str, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.closed = False
        self.made.append(self)

    def open(self, _shard: StoredShard) -> Keeping:
        return self

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        buffer[:] = bytes(len(buffer))
        if arrived:
            arrived(buffer)
        return start

    def close(self) -> None:
        self.closed = True


class Secret(str):
    """A text that can be found in memory; plain texts are in no list of the garbage collector."""

    __slots__ = ("__weakref__",)


def test_no_reader_keeps_an_environment_that_was_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keeping, "made", [], raising=False)
    monkeypatch.setattr(readers_module, "storage_for", Keeping)
    made = Carrier()
    fd = os.memfd_create("slab")
    os.ftruncate(fd, 8192)
    made.slabs.take(3, BorrowedSlab(fd))
    shard = StoredShard("s3://b/k", 8192, "etag")

    def fetch(environment: dict[str, str]) -> None:
        work = made.take_on(Assignment(jobs.Fetch(1, 3, shard, None, environment, 0, 8192)))
        assert isinstance(made.carry_out(work), jobs.Fetched)

    secret = Secret("a-secret-key")
    seen = weakref.ref(secret)
    ended: dict[str, str] = {"AWS_SECRET_ACCESS_KEY": secret}
    digest = digest_of(ended)
    fetch(ended)
    fetch({"AWS_SECRET_ACCESS_KEY": "of a load that goes on"})
    del ended, secret
    assert seen() is not None
    made.carry_out(made.take_on(Assignment(jobs.Forget(2, digest))))
    assert [each.closed for each in Keeping.made] == [True, False]
    Keeping.made.clear()
    gc.collect()
    assert seen() is None
    made.close()


def test_a_job_names_an_environment_that_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Keeping, "made", [], raising=False)
    monkeypatch.setattr(readers_module, "storage_for", Keeping)
    made = Carrier()
    fd = os.memfd_create("slab")
    os.ftruncate(fd, 8192)
    made.slabs.take(3, BorrowedSlab(fd))
    made.environments["d"] = {"KEY": "1"}
    job = jobs.Fetch(1, 3, StoredShard("s3://b/k", 8192, "etag"), None, {}, 0, 8192, "d")
    work = made.take_on(Assignment(job))
    made.take_on(Assignment(jobs.Forget(2, "d")))
    assert isinstance(made.carry_out(work), jobs.Fetched), "the job came before"
    assert [each._environment for each in Keeping.made] == [{"KEY": "1"}]
    with pytest.raises(StreamerError, match="was not sent"):
        made.take_on(Assignment(job))
    made.close()


@pytest.mark.parametrize("mapped", [False, True])
def test_memory_that_was_made_before_is_not_made_again(tmp_path: Path, mapped: bool) -> None:
    (tmp_path / "m").write_bytes(b"y" * (4 << 20))
    (stored,) = LocalStorage().list_shards(str(tmp_path / "m"), None, None)
    made = Carrier(mapped=mapped)
    fd = os.memfd_create("slab")
    os.ftruncate(fd, 4 << 20)
    made.slabs.take(3, BorrowedSlab(os.dup(fd)))
    made.sources.take(4, BorrowedSource(stored, (os.open(stored.uri, os.O_RDONLY),)))

    def done(job: jobs.AnyJob) -> jobs.Answer:
        return made.carry_out(made.take_on(Assignment(job)))

    assert done(jobs.Back(1, 3, 0, 4 << 20)) == jobs.Finished(1)
    assert os.fstat(fd).st_blocks * 512 == 4 << 20
    slab = made.slabs._entries[3].thing.file(mapped=mapped)
    slab.reserve = None  # type: ignore[assignment, method-assign]  # a call of it would fail
    fetched = done(jobs.Fetch(2, 3, stored, 4, {}, 0, 4 << 20, backed=True))
    assert isinstance(fetched, jobs.Fetched)
    assert os.pread(fd, 4 << 20, 0) == b"y" * (4 << 20)
    os.close(fd)
    made.close()


def test_what_was_dropped_after_a_job_came_stays_open_for_it() -> None:
    made = Carrier()
    fd = os.memfd_create("slab")
    os.ftruncate(fd, 8192)
    os.pwrite(fd, b"x" * 8192, 0)
    made.slabs.take(3, BorrowedSlab(fd))
    work = made.take_on(Assignment(jobs.Checksum(1, 3, 0, 8192)))
    made.drop(3)
    with pytest.raises(StreamerError, match="not lent to this worker any more"):
        made.take_on(Assignment(jobs.Checksum(2, 3, 0, 8192)))
    os.fstat(fd)
    answer = made.carry_out(work)
    assert answer == jobs.Checksummed(1, xxhash.xxh3_64_intdigest(b"x" * 8192))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    made.close()


class Waking(LocalReader):
    """A reader that is woken only after its job was given up."""

    assignment: Assignment

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        assert self.assignment.give_up(0.0) == 0.0
        return super().readinto(buffer, start, arrived)


@pytest.mark.parametrize("mapped", [False, True])
def test_what_was_given_up_writes_nothing(tmp_path: Path, mapped: bool) -> None:
    (tmp_path / "m").write_bytes(b"y" * 8192)
    (stored,) = LocalStorage().list_shards(str(tmp_path / "m"), None, None)
    made = Carrier(mapped=mapped)
    fd = os.memfd_create("slab")
    os.ftruncate(fd, 8192)
    made.slabs.take(3, BorrowedSlab(os.dup(fd)))
    source = BorrowedSource(stored, (os.open(stored.uri, os.O_RDONLY),))
    made.sources.take(4, source)
    reader = Waking(source._fds[0], stored)
    source._opened = reader, False
    reader.assignment = Assignment(jobs.Fetch(1, 3, stored, 4, {}, 0, 8192))
    reader.assignment.begin()
    with pytest.raises(GivenUp):
        made.carry_out(made.take_on(reader.assignment))
    assert os.pread(fd, 8192, 0) == bytes(8192)
    # A source that cannot hang is read straight into the slab, so a read of it is never given up.
    source._opened = reader, True
    reader.assignment = Assignment(jobs.Fetch(2, 3, stored, 4, {}, 0, 8192))
    reader.assignment.begin()
    answer = made.carry_out(made.take_on(reader.assignment))
    assert isinstance(answer, jobs.JobFailed)
    assert Unyielding.__name__ in answer.message
    os.close(fd)
    made.close()
