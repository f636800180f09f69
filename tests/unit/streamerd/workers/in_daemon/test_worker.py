"""The ends of a worker's jobs: answered, given up in time, or failed when its process ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from streamerd.workers.frames import FrameBuffer, frame
from streamerd.workers.in_daemon import worker as worker_module
from streamerd.workers.in_daemon.lending import Lending
from streamerd.workers.in_daemon.spawning import Process, Spawner
from streamerd.workers.in_daemon.worker import Order, Worker
from streamerd.workers.jobs import (
    CloseSlab,
    Finished,
    GiveUp,
    JobFailed,
    Punch,
    Reply,
    StillGoing,
    Stuck,
    TakeSlab,
    hung,
)
from streamerd.workers.lanes import WorkerLane, lane_of, subject_of

LIMIT_S = 10.0


class PaperChannel:
    """Notes the frames that are sent, and hands over the answers that a test gives."""

    def __init__(
        self, _end: object, on_body: Callable[[bytes], None], _on_lost: Callable[[], None]
    ) -> None:
        self.on_body = on_body
        self.sent: list[tuple[bytes, tuple[int, ...]]] = []
        self.waiting: list[int] = []
        """Numbers of the jobs that `withdraw` finds unsent."""
        self.closed = False

    def send(self, data: bytes, fds: tuple[int, ...] = (), number: int = 0) -> None:
        del number
        self.sent.append((data, fds))

    def withdraw(self, _fds: tuple[int, ...]) -> list[int]:
        return self.waiting

    def close(self) -> None:
        self.closed = True


class PaperSpawner:
    """Makes processes that run nothing; a broken one makes none."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []
        self.error: OSError | None = None
        self.kills = 0

    async def spawn(self, theirs: socket.socket, options: tuple[str, ...]) -> Process:
        del options
        self.ends.append(theirs)
        if self.error is not None:
            raise self.error
        return Process(7, self._killed)

    def _killed(self) -> None:
        self.kills += 1


class Scene:
    """A worker that has started, the set of workers that owns it, and a clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.lending = Lending()
        self.paper = PaperSpawner()
        self.spawner = cast("Spawner", self.paper)
        self.told: list[object] = []
        """The messages to that set and to the jobs' owners, in order."""
        self.channels: list[PaperChannel] = []
        self.worker = Worker(self, 3)
        monkeypatch.setattr(worker_module, "_now_s", lambda: self.now_s)
        monkeypatch.setattr(worker_module, "Channel", self._channel)

    def _channel(
        self, end: socket.socket, on_body: Callable[[bytes], None], on_lost: Callable[[], None]
    ) -> PaperChannel:
        end.close()
        self.channels.append(PaperChannel(end, on_body, on_lost))
        return self.channels[-1]

    def worker_lost(self, worker: Worker) -> None:
        self.told.append(("lost", worker.number, worker.alive, worker.idle))

    def thread_lost(self, worker: Worker, limit_s: float) -> None:
        self.told.append(("thread lost", worker.lost_threads, limit_s))

    def submit(self, number: int, limit_s: float | None = None, slab: int = 0) -> Punch:
        job = Punch(number, slab, 0, 4096)
        self.worker.submit(Order(job, self.told.append, lane_of(job), limit_s=limit_s))
        return job

    def answer(self, reply: Reply) -> None:
        (body,) = FrameBuffer().feed(frame(reply))
        self.channels[-1].on_body(body)

    def frames_of(self, kind: type[msgspec.Struct]) -> list[bytes]:
        return [data for data, _ in self.channels[-1].sent if kind.__name__.encode() in data]


def played(monkeypatch: pytest.MonkeyPatch, test: Callable[[Scene], None]) -> None:
    """Run a test with a worker that has started."""

    async def play() -> None:
        scene = Scene(monkeypatch)
        await scene.worker.start(())
        test(scene)
        scene.worker.close()
        await asyncio.sleep(0)

    asyncio.run(play())


def test_an_answer_goes_to_who_asked_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def test(scene: Scene) -> None:
        scene.worker.failures = 2
        scene.submit(1)
        scene.submit(2)
        assert scene.worker.busy[WorkerLane.SLABS] == 2
        for _ in range(2):
            scene.answer(Finished(2))
        assert scene.told == [Finished(2)]
        assert scene.worker.busy[WorkerLane.SLABS] == 1
        assert scene.worker.failures == 0
        assert not scene.worker.idle

    played(monkeypatch, test)


def test_a_slab_goes_out_before_the_first_job_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def test(scene: Scene) -> None:
        slab = scene.lending.put_slab(55)
        jobs = [scene.submit(number, slab=slab) for number in (1, 2)]
        assert scene.channels[-1].sent == [
            (frame(TakeSlab(slab), 1), (55,)),
            (frame(jobs[0]), ()),
            (frame(jobs[1]), ()),
        ]

    played(monkeypatch, test)


def test_a_job_beyond_its_limit_is_to_be_given_up_and_later_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def test(scene: Scene) -> None:
        late = scene.submit(1, LIMIT_S)
        scene.submit(2)
        scene.now_s += LIMIT_S - 1
        assert scene.worker.look_at_limits()
        assert not scene.frames_of(GiveUp)
        scene.now_s += 1
        assert scene.worker.look_at_limits()
        assert scene.frames_of(GiveUp) == [frame(GiveUp(1, LIMIT_S))]
        scene.now_s += LIMIT_S
        assert not scene.worker.look_at_limits()
        assert scene.paper.kills == 1
        assert scene.told == [("lost", 3, False, True), hung(1, subject_of(late), LIMIT_S), None]
        assert not any(scene.worker.busy.values())

    played(monkeypatch, test)


def test_a_worker_that_asks_for_more_time_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def test(scene: Scene) -> None:
        scene.submit(1, LIMIT_S)
        scene.now_s += LIMIT_S
        scene.worker.look_at_limits()
        scene.answer(StillGoing(1, 4.0))
        scene.answer(StillGoing(9, 4.0))
        scene.now_s += 4.0
        assert scene.worker.look_at_limits()
        assert len(scene.frames_of(GiveUp)) == 2
        assert scene.worker.alive

    played(monkeypatch, test)


def test_a_job_given_up_costs_a_thread_and_jobs_without_limits_need_no_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def test(scene: Scene) -> None:
        job = scene.submit(1, LIMIT_S)
        scene.submit(2)
        gone = hung(1, subject_of(job), LIMIT_S)
        scene.answer(gone)
        assert scene.told == [("thread lost", 1, LIMIT_S), gone]
        assert not scene.worker.look_at_limits()
        scene.answer(JobFailed(2, "E_SOURCE", "no such file"))
        assert scene.worker.lost_threads == 1

    played(monkeypatch, test)


def test_a_job_that_cannot_be_given_up_ends_the_worker_if_it_is_still_owed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def test(scene: Scene) -> None:
        scene.submit(1, LIMIT_S)
        scene.answer(Stuck(8))
        assert scene.worker.alive
        scene.answer(Stuck(1))
        scene.worker.abandon()
        assert scene.told == [("lost", 3, False, True), None]
        assert scene.paper.kills == 1
        assert scene.channels[-1].closed

    played(monkeypatch, test)


def test_jobs_that_waited_with_descriptors_taken_back_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> None:
        scene = Scene(monkeypatch)
        scene.worker.withdraw((55,))
        await scene.worker.start(())
        scene.submit(1)
        scene.submit(2)
        scene.channels[-1].waiting = [0, 2]
        scene.worker.withdraw((55,))
        assert scene.told == []
        await asyncio.sleep(0)
        (failed,) = scene.told
        assert isinstance(failed, JobFailed)
        assert (failed.job, failed.hung) == (2, False)
        scene.worker.close()

    asyncio.run(play())


def test_a_worker_whose_start_fails_leaves_no_socket_and_the_next_start_begins_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> None:
        scene = Scene(monkeypatch)
        scene.paper.error = OSError("no process")
        with pytest.raises(OSError, match="no process"):
            await scene.worker.start(())
        assert (scene.worker.alive, scene.channels) == (False, [])
        assert scene.paper.ends[0].fileno() == -1
        scene.paper.error, scene.worker.lost_threads = None, 2
        await scene.worker.start(())
        assert (scene.worker.alive, scene.worker.lost_threads) == (True, 0)
        scene.worker.close()
        scene.worker.close()
        scene.worker.send(CloseSlab(1, 0))
        assert scene.channels[-1].sent == []

    asyncio.run(play())


def test_a_new_process_gets_the_slabs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        scene = Scene(monkeypatch)
        slab = scene.lending.put_slab(55)
        for number in (1, 2):
            await scene.worker.start(())
            scene.submit(number, slab=slab)
            assert len(scene.frames_of(TakeSlab)) == 1
            scene.worker.abandon()

    asyncio.run(play())
