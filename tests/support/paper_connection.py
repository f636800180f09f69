"""A connection without a daemon: it records messages, and answers `Open` as the test says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import cast

from streamer_client.connecting.connection import Connection
from streamer_client.connecting.recipients import LoadListener
from streamer_client.contract.errors import DaemonUnavailable, StreamerError
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import DaemonMessage, Message, Open, Opened, OpenedShard
from streamer_client.storage.local_files import LocalFile

BLOCK = 4096


class PaperConnection:
    """Carries out calls of the wire's thread at once.

    Attributes:
        sent: every message but `Open`.
        opens: every `Open`.
        answers: the answers of the next `Open`s; once used up, each gets held loads of one shard.
        before_sending: for a kind of message, a call to make before one is sent.
    """

    def __init__(self, *answers: Sequence[OpenedShard] | StreamerError | None) -> None:
        self.alive = True
        self.sent: list[Message] = []
        self.opens: list[Open] = []
        self.dropped: list[int] = []
        self.answers = list(answers)
        self.listeners: dict[int, LoadListener] = {}
        self.before_sending: dict[type[Message], Callable[[], None]] = {}

    @property
    def real(self) -> Connection:
        return cast("Connection", self)

    def listen(self, listener: LoadListener) -> int:
        number = len(self.opens) + 1
        self.listeners[number] = listener
        return number

    def unlisten(self, load: int) -> None:
        self.listeners.pop(load, None)

    stop_listening = unlisten

    def send(self, message: Message) -> None:
        self.before_sending.get(type(message), lambda: None)()
        self.sent.append(message)

    def tell(self, build: Callable[[int], Message]) -> None:
        self.send(build(99))

    def call_soon(self, call: Callable[[], None]) -> None:
        call()

    def hand_over(self, files: Sequence[LocalFile]) -> int:
        return len(self.opens) + 1 if files else 0

    def drop(self, transfer: int) -> None:
        if transfer:
            self.dropped.append(transfer)

    def request(
        self,
        build: Callable[[int], Message],
        timeout_s: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> DaemonMessage:
        del timeout_s
        message = build(1)
        assert isinstance(message, Open)
        self.opens.append(message)
        answer = self.answers.pop(0) if self.answers else [shard("m", held=True)]
        if cancelled() or answer is None:
            raise CancelledError
        if isinstance(answer, StreamerError):
            self.alive = not isinstance(answer, DaemonUnavailable)
            raise answer
        opened = Opened(1, message.load, BLOCK, tuple(answer), (), 0)
        listener = self.listeners[message.load]
        listener.on_opened(opened)
        numbers = tuple(number for number, one in enumerate(answer) if one.size_bytes)
        listener.on_slabs(numbers, [slab_fd(answer[number].size_bytes) for number in numbers])
        return opened

    def grant(self, load: int, *ranges: tuple[int, int, int]) -> None:
        self.listeners[load].on_granted(tuple(BlockRange(*one) for one in ranges))


def shard(uri: str, *, blocks: int = 4, held: bool, identity: str = "i") -> OpenedShard:
    return OpenedShard(uri, identity, blocks * BLOCK, held)


def slab_fd(size_bytes: int) -> int:
    fd = os.memfd_create("slab")
    os.truncate(fd, size_bytes)
    return fd
