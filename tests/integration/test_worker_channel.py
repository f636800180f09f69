"""Frames and descriptors over a real socket pair: in order, however the kernel takes them."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from streamerd.workers.frames import frame
from streamerd.workers.in_daemon.channel import Channel
from streamerd.workers.in_worker.receiver import DescriptorsLost, Receiver
from streamerd.workers.jobs import (
    GiveUp,
    TakeSlab,
)
from tests.support.in_loop import in_loop, until

Received = tuple[bytes, int]


def filler(number: int, size: int = 100_000) -> bytes:
    """A frame that fills the socket's buffer."""
    body = number.to_bytes(4, "little") * (size // 4)
    return len(body).to_bytes(4, "little") + b"\0" + body


@contextmanager
def pipes(count: int) -> Iterator[list[int]]:
    """Ends of pipes whose other ends are closed."""
    with ExitStack() as stack:
        fds = []
        for _ in range(count):
            read_end, write_end = os.pipe()
            os.close(write_end)
            stack.callback(os.close, read_end)
            fds.append(read_end)
        yield fds


class Reading:
    """The other end, read in a thread from the moment when it is told to."""

    def __init__(self, end: socket.socket) -> None:
        self.got: list[tuple[bytes, list[tuple[int, int]]]] = []
        self.error: Exception | None = None
        self._end = end
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            for body, fds in Receiver(self._end).frames():
                inodes = []
                for fd in fds:
                    assert not os.get_inheritable(fd)
                    status = os.fstat(fd)
                    inodes.append((status.st_dev, status.st_ino))
                    os.close(fd)
                self.got.append((body, inodes))
        except DescriptorsLost as error:
            self.error = error

    def end(self) -> None:
        self._thread.join(20)
        self._end.close()


def inodes_of(fds: list[int]) -> list[tuple[int, int]]:
    return [(os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in fds]


@in_loop
async def test_descriptors_arrive_with_their_frames_whatever_waits_before() -> None:
    ours, theirs = socket.socketpair()
    reading = Reading(theirs)
    channel = Channel(ours, lambda _body: None, lambda: None)
    with pipes(6) as fds:
        expected = []
        for number in range(60):
            channel.send(filler(number))
            expected.append((filler(number)[5:], inodes_of([])))
            if number % 10 == 0:
                some = fds[: number // 10 + 1]
                channel.send(frame(TakeSlab(number), len(some)), tuple(some))
                expected.append((frame(TakeSlab(number))[5:], inodes_of(some)))
        assert channel._unsent
        reading.begin()
        await until(lambda: len(reading.got) == len(expected))
        assert reading.got == expected
        channel.close()
        reading.end()
    assert reading.error is None


@in_loop
async def test_what_was_withdrawn_never_travels() -> None:
    ours, theirs = socket.socketpair()
    reading = Reading(theirs)
    channel = Channel(ours, lambda _body: None, lambda: None)
    with pipes(2) as (first, second):
        for number in range(20):
            channel.send(filler(number))
        channel.send(frame(TakeSlab(1), 1), (first,))
        channel.send(frame(TakeSlab(2), 2), (second, first), 7)
        channel.send(frame(TakeSlab(3), 1), (second,))
        assert channel.withdraw((first,)) == [0, 7]
        assert channel.withdraw((first,)) == []
        reading.begin()
        await until(lambda: len(reading.got) == 21)
        assert reading.got[-1] == (frame(TakeSlab(3))[5:], inodes_of([second]))
        channel.close()
        reading.end()


@in_loop
async def test_too_many_in_flight_waits_and_keeps_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    reading = Reading(theirs)
    plain, refusals = socket.send_fds, 3

    def refusing(end: socket.socket, data: list[memoryview], fds: tuple[int, ...]) -> int:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise OSError(errno.ETOOMANYREFS, "too many references")
        return plain(end, data, fds)

    monkeypatch.setattr(socket, "send_fds", refusing)
    channel = Channel(ours, lambda _body: None, lambda: None)
    with pipes(1) as (fd,):
        channel.send(frame(TakeSlab(1), 1), (fd,))
        channel.send(frame(GiveUp(2, 1.0)))
        reading.begin()
        await until(lambda: len(reading.got) == 2)
        assert [body for body, _ in reading.got] == [
            frame(TakeSlab(1))[5:],
            frame(GiveUp(2, 1.0))[5:],
        ]
        channel.close()
        reading.end()


@pytest.mark.parametrize(
    "cut", [socket.socket.close, lambda end: end.shutdown(socket.SHUT_WR)], ids=["close", "cut"]
)
@in_loop
async def test_the_end_of_the_other_side_is_told_once(cut: Callable[[socket.socket], None]) -> None:
    lost: list[int] = []
    ours, theirs = socket.socketpair()
    channel = Channel(ours, lambda _body: None, lambda: lost.append(1))
    with pipes(1) as (fd,):
        for number in range(20):
            channel.send(filler(number))
        channel.send(frame(TakeSlab(1), 1), (fd,))
        cut(theirs)
        await until(lambda: channel.closed)
        channel.send(frame(TakeSlab(1), 1), (fd,))
    channel.close()
    theirs.close()
    assert lost == [1]


@in_loop
async def test_closing_between_two_bodies_of_one_read_ends_it() -> None:
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    closes: list[Callable[[], None]] = []

    def take(body: bytes) -> None:
        got.append(body)
        closes[0]()

    channel = Channel(ours, take, lambda: None)
    closes.append(channel.close)
    theirs.sendall(frame(TakeSlab(1)) + frame(TakeSlab(2)))
    await until(lambda: channel.closed)
    await asyncio.sleep(0)
    assert got == [frame(TakeSlab(1))[5:]]
    theirs.close()


def test_descriptors_that_are_missing_end_the_receiver() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pipes(2) as fds:
        socket.send_fds(ours, [frame(TakeSlab(1), 3)], fds)
        with pytest.raises(DescriptorsLost, match="3 descriptors came with 2"):
            next(Receiver(theirs).frames())


def test_descriptors_that_the_kernel_cut_off_end_the_receiver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = socket.socketpair()
    monkeypatch.setattr("streamerd.workers.in_worker.receiver.MOST_DESCRIPTORS", 1)
    with ours, theirs, pipes(9) as fds:
        socket.send_fds(ours, [frame(TakeSlab(1), 9)], fds)
        with pytest.raises(DescriptorsLost, match="LimitNOFILE"):
            next(Receiver(theirs).frames())
