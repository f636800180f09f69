"""The inside of a worker, served in a thread of the test: its answers when it shall give up."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from streamer_client.storage.contract import Arrived, StoredShard
from streamer_client.storage.local import LocalStorage
from streamer_client.storage.local_reader import LocalReader
from streamerd.workers import frames, jobs
from streamerd.workers.in_worker import borrowed
from streamerd.workers.in_worker.assignment import TRY_AGAIN_S
from streamerd.workers.in_worker.process import NICENESS, Server
from tests.support.daemon import Daemons
from tests.support.waiting import eventually

SIZE = 8192


class Daemon:
    """The daemon's end of a worker's channel."""

    def __init__(self, threads: int = 1) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.settimeout(20)
        self._frames = frames.FrameBuffer()
        self._bodies: list[bytes] = []
        self._server = Server(self._theirs, threads, 1, mapped=False)
        self._thread = threading.Thread(target=self._server.serve)
        self._thread.start()

    def send(self, message: msgspec.Struct, *fds: int) -> None:
        data = frames.frame(message, len(fds))
        if fds:
            socket.send_fds(self._ours, [data], fds)
        else:
            self._ours.sendall(data)

    def receive(self) -> jobs.Reply:
        while not self._bodies:
            self._bodies += self._frames.feed(self._ours.recv(1 << 16))
        reply: jobs.Reply = jobs.answer_decoder.decode(self._bodies.pop(0))
        return reply

    def close(self) -> None:
        self._ours.close()
        self._thread.join()
        self._theirs.close()


class Blocking(LocalReader):
    """A reader that reads only once it is allowed to."""

    entered: threading.Event
    go: threading.Event

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        self.entered.set()
        self.go.wait(20)
        return super().readinto(buffer, start, arrived)


@pytest.fixture
def stored(tmp_path: Path) -> StoredShard:
    (tmp_path / "m").write_bytes(b"z" * SIZE)
    (shard,) = LocalStorage().list_shards(str(tmp_path / "m"), None, None)
    return shard


@pytest.fixture
def slab() -> Iterator[int]:
    fd = os.memfd_create("slab")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> type[Blocking]:
    monkeypatch.setattr(borrowed, "LocalReader", Blocking)
    Blocking.entered, Blocking.go = threading.Event(), threading.Event()
    return Blocking


def begin(daemon: Daemon, stored: StoredShard, slab: int) -> None:
    fd = os.open(stored.uri, os.O_RDONLY)
    daemon.send(jobs.TakeSlab(1), slab)
    daemon.send(jobs.TakeSource(2, stored), fd)
    os.close(fd)
    daemon.send(jobs.Fetch(10, 1, stored, 2, {}, 0, SIZE))


def test_a_hanging_read_into_a_slab_ends_its_worker(
    stored: StoredShard,
    slab: int,
    reading: type[Blocking],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(borrowed, "is_steady", lambda _fd: True)
    daemon = Daemon()
    begin(daemon, stored, slab)
    assert reading.entered.wait(20)
    daemon.send(jobs.GiveUp(10, 100.0))
    early = daemon.receive()
    assert isinstance(early, jobs.StillGoing)
    assert 0 < early.left_s <= 100.0
    daemon.send(jobs.GiveUp(10, 0.0))
    assert daemon.receive() == jobs.Stuck(10)
    reading.go.set()  # a real daemon would have killed the worker
    assert isinstance(daemon.receive(), jobs.Fetched)
    # The worker says nothing when it is told to give up a job that it has answered.
    daemon.send(jobs.GiveUp(10, 0.0))
    daemon.send(jobs.CloseSlab(11, 1))
    assert daemon.receive() == jobs.Finished(11)
    daemon.close()


def test_what_may_hang_is_given_up_and_its_lane_goes_on(
    stored: StoredShard,
    slab: int,
    reading: type[Blocking],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(borrowed, "is_steady", lambda _fd: False)
    daemon = Daemon()
    begin(daemon, stored, slab)
    assert reading.entered.wait(20)
    # This job waits behind the first one for the lane's only thread.
    daemon.send(jobs.Checksum(11, 1, 0, SIZE))
    daemon.send(jobs.GiveUp(11, 0.0))
    assert daemon.receive() == jobs.StillGoing(11, TRY_AGAIN_S)
    daemon.send(jobs.GiveUp(10, 0.0))
    answers = {answer.job: answer for answer in (daemon.receive(), daemon.receive())}
    given_up = answers[10]
    assert isinstance(given_up, jobs.JobFailed)
    assert given_up.hung
    assert isinstance(answers[11], jobs.Checksummed)
    reading.go.set()
    eventually(lambda: not any(thread.name == "disk" for thread in _beyond_one()))
    assert os.pread(slab, SIZE, 0) == bytes(SIZE)
    daemon.close()


def _beyond_one() -> list[threading.Thread]:
    """Threads of the lane beyond the one that is ready for the next job."""
    return [thread for thread in threading.enumerate() if thread.name == "disk"][1:]


def test_every_thread_of_a_worker_gives_way_to_other_processes(daemon_maker: Daemons) -> None:
    daemon = daemon_maker.start("--workers=1")
    (worker,) = eventually(lambda: named(b"streamerd-fetch", daemon.pid), 20)
    threads = [int(each.name) for each in Path(f"/proc/{worker}/task").iterdir()]
    assert {os.sched_getscheduler(each) for each in threads} == {os.SCHED_BATCH}
    assert {os.getpriority(os.PRIO_PROCESS, each) for each in threads} == {NICENESS}
    assert os.sched_getscheduler(daemon.pid) == os.SCHED_OTHER


def named(name: bytes, ancestor: int) -> list[int]:
    """The processes of this name that descend from another process."""
    return [
        int(each.parent.name)
        for each in Path("/proc").glob("[0-9]*/comm")
        if each.read_bytes().strip() == name and descends(int(each.parent.name), ancestor)
    ]


def descends(pid: int, ancestor: int) -> bool:
    while pid > 1 and pid != ancestor:
        status = Path(f"/proc/{pid}/stat").read_text()
        pid = int(status.rpartition(")")[2].split()[1])
    return pid == ancestor
