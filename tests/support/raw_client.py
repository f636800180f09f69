"""The protocol spoken by hand, one message at a time: every point of a load is a stop point.

No thread, no torch, no heartbeats: a test says exactly what the daemon hears, wrong things too.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec
import posix_ipc
import zmq

from streamer_client.contract.layout import BlockRange, block_count, block_span
from streamer_client.contract.messages import (
    PROTOCOL,
    Close,
    Consumed,
    DaemonMessage,
    Failed,
    Goodbye,
    Granted,
    Heartbeat,
    Hello,
    Message,
    Open,
    Opened,
    OpenedShard,
    ShardFailed,
    Waiting,
    Want,
    Welcome,
    decode_daemon,
    encode,
)

ANSWER_S: Final = 20.0

M = TypeVar("M", bound=Message)
Block = tuple[int, int]
"""Shard number and block number."""


class RawClient:
    """One connection. A context manager that says goodbye."""

    def __init__(self, socket_path: str, label: str = "raw", *, greet: bool = True) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 500
        self._socket.connect(f"ipc://{socket_path}")
        self._ids = itertools.count(1)
        self._unread: deque[DaemonMessage] = deque()
        self.loads: dict[int, RawLoad] = {}
        if greet:
            try:
                self.welcome = self.request(self.hello(label), Welcome)
            except BaseException:
                self.abandon()
                raise

    def hello(self, label: str = "raw", protocol: int = PROTOCOL) -> Hello:
        return Hello(self.next_id(), protocol, "0.test", os.getpid(), 0, label)

    def next_id(self) -> int:
        return next(self._ids)

    def send(self, message: Message) -> None:
        self._socket.send(encode(message))

    def send_frames(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def receive(self) -> DaemonMessage:
        """The next message that is neither heartbeat nor grant."""
        while not self._unread:
            self.listen()
        return self._unread.popleft()

    def put_back(self, message: DaemonMessage) -> None:
        """Let `receive` give a message again."""
        self._unread.appendleft(message)

    def listen(self) -> DaemonMessage:
        """Wait for one message; a grant is noted with its load, any other is kept for `receive`."""
        if not self._socket.poll(int(ANSWER_S * 1000)):
            raise AssertionError(f"the daemon said nothing within {ANSWER_S} s")
        message = decode_daemon(self._socket.recv())
        match message:
            case Granted(load, ranges):
                self.loads[load].note(ranges)
            case Heartbeat():
                pass
            case _:
                self._unread.append(message)
        return message

    def expect(self, kind: type[M]) -> M:
        """The next message beside grants, which must be of this kind."""
        message = self.receive()
        assert isinstance(message, kind), f"expected {kind.__name__}, got {message}"
        return message

    def expect_also(self, kind: type[M]) -> M:
        """The next message of this kind; others that come before it stay unread, in order."""
        while not any(isinstance(message, kind) for message in self._unread):
            self.listen()
        message = next(message for message in self._unread if isinstance(message, kind))
        self._unread.remove(message)
        return message

    def request(self, message: Message, kind: type[M]) -> M:
        self.send(message)
        return self.expect(kind)

    def refused(self, message: Message) -> Failed:
        return self.request(message, Failed)

    def open(self, source: str, **options: object) -> RawLoad:
        """Open and wait until it is admitted; `options` are fields of `Open`."""
        return RawLoad(self, source, **options).opened()

    def close(self) -> None:
        self._socket.send(encode(Goodbye()))
        self._socket.close()
        self._context.term()

    def abandon(self) -> None:
        """Close the socket without a goodbye."""
        self._socket.close(linger=0)
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._socket.closed:
            self.close()


class RawLoad:
    """One load of a raw client: what is granted now, and what was read."""

    def __init__(self, client: RawClient, source: str, **options: object) -> None:
        self.client = client
        self.number = client.next_id()
        client.loads[self.number] = self
        self.granted: set[Block] = set()
        self.shards: tuple[OpenedShard, ...] = ()
        self.read: dict[Block, bytes] = {}
        message = Open(request_id=client.next_id(), load=self.number, source=source)
        client.send(msgspec.structs.replace(message, **options))

    def waiting(self) -> Waiting:
        """The report that it waits for memory."""
        report = self.client.expect(Waiting)
        assert report.load == self.number
        return report

    def opened(self) -> RawLoad:
        message = self.client.expect(Opened)
        self.answer = message
        self.shards, self.block_bytes = message.shards, message.block_bytes
        self.note(message.granted)
        return self

    @property
    def held(self) -> bool:
        return all(shard.held for shard in self.shards)

    @property
    def blocks(self) -> set[Block]:
        """Every block of every shard."""
        return {
            (number, block)
            for number, shard in enumerate(self.shards)
            for block in range(block_count(shard.size_bytes, self.block_bytes))
        }

    def note(self, ranges: Iterable[BlockRange]) -> None:
        for shard, start, stop in ranges:
            self.granted.update((shard, block) for block in range(start, stop))

    def await_grants(self, count: int) -> set[Block]:
        """Receive until so many blocks are granted at once."""
        while len(self.granted) < count:
            message = self.client.listen()
            assert not isinstance(message, ShardFailed), message
        return self.granted

    def want(self, *ranges: tuple[int, int, int]) -> None:
        self.client.send(Want(self.number, tuple(BlockRange(*item) for item in ranges)))

    def consume(self, blocks: Iterable[Block]) -> None:
        """Read granted blocks, then give them back."""
        blocks = sorted(blocks)
        for block in blocks:
            assert block in self.granted
            self.read[block] = self.bytes_of(*block)
        self.give_back(blocks)

    def give_back(self, blocks: Iterable[Block]) -> None:
        """Say that blocks are consumed, read or not."""
        ranges = tuple(BlockRange(shard, block, block + 1) for shard, block in blocks)
        self.granted.difference_update(blocks)
        self.client.send(Consumed(self.number, ranges))

    def bytes_of(self, shard: int, block: int) -> bytes:
        """What lies in the slab now."""
        of = self.shards[shard]
        start, stop = block_span(block, of.size_bytes, self.block_bytes)
        memory = posix_ipc.SharedMemory(of.slab, read_only=True)
        try:
            return os.pread(memory.fd, stop - start, start)
        finally:
            memory.close_fd()

    def read_all(self, between: Callable[[], object] = lambda: None) -> list[bytes]:
        """Consume blocks as they are granted until all were read once; the shards' bytes."""
        while missing := self.blocks - self.read.keys():
            self.await_grants(1)
            fresh = self.granted & missing
            assert fresh, "granted what was read before"
            self.consume(fresh)
            between()
        return [self.shard_bytes(number) for number in range(len(self.shards))]

    def shard_bytes(self, number: int) -> bytes:
        return b"".join(self.read[key] for key in sorted(self.read) if key[0] == number)

    def close(self) -> None:
        self.client.send(Close(self.number))
