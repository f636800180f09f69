"""How the daemon interprets the reports about its workers' processes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from streamer_client.contract.errors import StreamerError
from streamerd.workers.in_daemon.spawning import UNKNOWN_CODE, Process, Spawner
from streamerd.workers.start_messages import Ended, Kill, NotSpawned, Spawn, Spawned

Report = Spawned | NotSpawned | Ended


class PaperChannel:
    """Notes the messages to the process that starts workers."""

    closed = False

    def __init__(self) -> None:
        self.sent: list[Spawn | Kill] = []
        self.kill_sent = asyncio.Event()

    def send(self, data: bytes, fds: tuple[int, ...] = (), tag: int = 0) -> None:
        del fds, tag
        message: Spawn | Kill = msgspec.msgpack.decode(data[5:], type=Spawn | Kill)
        self.sent.append(message)
        if isinstance(message, Kill):
            self.kill_sent.set()

    def withdraw(self, fds: tuple[int, ...]) -> list[int]:
        del fds
        return []

    def close(self) -> None:
        self.closed = True


class Play:
    """A spawner whose process is the test."""

    def __init__(self) -> None:
        self.spawner = Spawner()
        self.channel = PaperChannel()
        self.spawner._channel = self.channel  # type: ignore[assignment]  # it notes messages
        self.theirs, self._ours = socket.socketpair()

    def close(self) -> None:
        self.theirs.close()
        self._ours.close()

    def spawning(self) -> asyncio.Task[Process]:
        return asyncio.get_running_loop().create_task(self.spawner.spawn(self.theirs, ("--x",)))

    def told(self, report: Report) -> None:
        self.spawner._received(msgspec.msgpack.encode(report))

    async def running(self, pid: int = 77) -> Process:
        task = self.spawning()
        await asyncio.sleep(0)
        self.told(Spawned(self.spawner._numbers, pid))
        return await task


def played(test: Callable[[Play], Awaitable[None]]) -> None:
    async def run() -> None:
        play = Play()
        try:
            await test(play)
        finally:
            play.close()

    asyncio.run(run())


def test_a_worker_runs_until_its_end_is_told() -> None:
    async def test(play: Play) -> None:
        process = await play.running()
        assert play.channel.sent == [Spawn(1, ("--x",))]
        assert (process.pid, process.ended.done()) == (77, False)
        play.told(Ended(1, -9))
        assert await process.ended == -9

    played(test)


def test_a_worker_that_cannot_be_made_is_an_error_of_its_start() -> None:
    async def test(play: Play) -> None:
        task = play.spawning()
        await asyncio.sleep(0)
        play.told(NotSpawned(1, "no memory"))
        with pytest.raises(OSError, match="no memory"):
            await task

    played(test)


def test_a_worker_that_nobody_waits_for_any_more_is_killed() -> None:
    async def test(play: Play) -> None:
        task = play.spawning()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        play.told(Spawned(1, 77))
        assert play.channel.sent[1:] == [Kill(1)]

    played(test)


def test_when_the_starter_dies_its_workers_have_ended_and_starts_fail() -> None:
    async def test(play: Play) -> None:
        process = await play.running()
        task = play.spawning()
        await asyncio.sleep(0)
        play.spawner._lost()
        assert await process.ended == UNKNOWN_CODE
        with pytest.raises(StreamerError, match="starts fetch workers ended"):
            await task

    played(test)


def test_the_end_kills_who_does_not_leave_by_itself() -> None:
    async def test(play: Play) -> None:
        process = await play.running()
        leaving = asyncio.get_running_loop().create_task(play.spawner.stop(grace_s=0))
        await play.channel.kill_sent.wait()
        assert process.killed
        play.told(Ended(1, -9))
        await leaving
        assert play.channel.sent[1:] == [Kill(1)]
        assert play.channel.closed

    played(test)
