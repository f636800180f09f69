"""Frames are sent in order with their descriptors, and the loop never waits for the other end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from streamerd.workers.frames import FrameBuffer, frame
from streamerd.workers.in_daemon.channel import Channel
from streamerd.workers.jobs import Finished


class WatchedChannel(Channel):
    """A stand-in that notes when it was closed."""

    def __init__(
        self, end: socket.socket, on_body: Callable[[bytes], None], on_lost: Callable[[], None]
    ) -> None:
        super().__init__(end, on_body, on_lost)
        self.gone = asyncio.Event()

    def close(self) -> None:
        super().close()
        self.gone.set()


Test = Callable[[WatchedChannel, socket.socket, list[bytes]], Awaitable[None]]


def played(test: Test) -> list[str]:
    """Run a test with a channel, its other end, and the notes about the channel's loss."""
    lost: list[str] = []

    async def play() -> None:
        ours, theirs = socket.socketpair()
        bodies: list[bytes] = []
        channel = WatchedChannel(ours, bodies.append, lambda: lost.append("lost"))
        with theirs:
            theirs.setblocking(False)
            await test(channel, theirs, bodies)
            channel.close()
            channel.close()

    asyncio.run(play())
    return lost


async def received(theirs: socket.socket, count: int) -> tuple[list[bytes], int]:
    """Receive this many bodies at the other end; also returns how many descriptors came
    with them.
    """
    buffer, bodies, descriptors = FrameBuffer(), list[bytes](), 0
    while len(bodies) < count:
        try:
            data, fds, _, _ = socket.recv_fds(theirs, 1 << 20, 16)
        except BlockingIOError:
            await asyncio.sleep(0)
            continue
        descriptors += len(fds)
        for fd in fds:
            os.close(fd)
        bodies += buffer.feed(data)
    return bodies, descriptors


def numbers(bodies: list[bytes]) -> list[int]:
    return [msgspec.msgpack.decode(body, type=Finished).job for body in bodies]


def filled(channel: Channel) -> int:
    """Send until the socket takes no more; returns how many frames were sent, the last
    one in part.
    """
    count = 0
    while not channel._writing:
        count += 1
        channel.send(frame(Finished(count)))
    return count


def test_frames_arrive_in_order_with_their_descriptors() -> None:
    async def test(channel: WatchedChannel, theirs: socket.socket, _: list[bytes]) -> None:
        channel.send(frame(Finished(1)))
        channel.send(frame(Finished(2), 1), (theirs.fileno(),))
        channel.send(frame(Finished(3)))
        bodies, descriptors = await received(theirs, 3)
        assert (numbers(bodies), descriptors) == ([1, 2, 3], 1)

    assert played(test) == []


def test_what_finds_no_room_is_sent_when_there_is_some() -> None:
    async def test(channel: WatchedChannel, theirs: socket.socket, _: list[bytes]) -> None:
        count = filled(channel)
        channel.send(frame(Finished(count + 1), 1), (theirs.fileno(),))
        bodies, descriptors = await received(theirs, count + 1)
        assert (numbers(bodies), descriptors) == (list(range(1, count + 2)), 1)

    assert played(test) == []


def test_a_frame_that_waits_is_withdrawn_by_its_descriptor() -> None:
    async def test(channel: WatchedChannel, theirs: socket.socket, _: list[bytes]) -> None:
        count = filled(channel)
        one, other = os.dup(theirs.fileno()), os.dup(theirs.fileno())
        channel.send(frame(Finished(count + 1), 1), (one,), tag=11)
        channel.send(frame(Finished(count + 2), 1), (other,), tag=12)
        assert channel.withdraw((one,)) == [11]
        assert channel.withdraw((one,)) == []
        bodies, descriptors = await received(theirs, count + 1)
        assert numbers(bodies)[-2:] == [count, count + 2]
        assert descriptors == 1
        os.close(one)
        os.close(other)

    assert played(test) == []


def test_too_many_descriptors_in_flight_are_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [OSError(errno.ETOOMANYREFS, "too many"), OSError(errno.ETOOMANYREFS, "too many")]
    send = socket.send_fds

    def send_fds(*arguments: object) -> int:
        if refused:
            raise refused.pop()
        return send(*arguments)  # type: ignore[arg-type]  # the arguments are passed on

    monkeypatch.setattr(socket, "send_fds", send_fds)

    async def test(channel: WatchedChannel, theirs: socket.socket, _: list[bytes]) -> None:
        channel.send(frame(Finished(1), 1), (theirs.fileno(),))
        channel.send(frame(Finished(2)))
        bodies, descriptors = await received(theirs, 2)
        assert (numbers(bodies), descriptors) == ([1, 2], 1)

    assert played(test) == []
    assert not refused


def test_the_other_ends_loss_is_told_once_after_what_it_said() -> None:
    async def test(channel: WatchedChannel, theirs: socket.socket, bodies: list[bytes]) -> None:
        theirs.send(frame(Finished(5)) + frame(Finished(6)))
        theirs.close()
        await channel.gone.wait()
        assert numbers(bodies) == [5, 6]
        channel.send(frame(Finished(7)))

    assert played(test) == ["lost"]


def test_after_a_close_nothing_is_told() -> None:
    async def test(channel: WatchedChannel, theirs: socket.socket, bodies: list[bytes]) -> None:
        theirs.send(frame(Finished(5)))
        channel.close()
        await asyncio.sleep(0)
        assert bodies == []

    assert played(test) == []
