"""A client that sends any packet with any descriptors to the descriptor socket, in any order.

Owns one connection of each kind, as one client: the descriptor socket, and the ZeroMQ peer that
presents its token. Nothing here checks what is sent, since that is the daemon's task.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import zmq

from streamer_client.contract.codec import decode_daemon, encode
from streamer_client.contract.handover import (
    MAX_PACKET_BYTES,
    Files,
    FromDaemon,
    Greeting,
    HandedFile,
    Refused,
    Taken,
    decode_from_daemon,
    encode_packet,
)
from streamer_client.contract.messages import (
    PROTOCOL,
    DaemonMessage,
    Failed,
    FirstWant,
    Heartbeat,
    Hello,
    Message,
    Open,
    Opened,
    Welcome,
)
from streamer_client.contract.socket import descriptor_socket
from tests.support.load_fields import NOT_HELD

ANSWER_S: Final = 20.0
ROOM: Final = 253


class DescriptorPeer:
    """One client, honest or not. A context manager that closes both sockets."""

    def __init__(self, socket_path: str, *, hello: bool = True) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(ANSWER_S)
        self._context = zmq.Context()
        self._messages = self._context.socket(zmq.DEALER)
        self._messages.linger = 0
        self._numbers = itertools.count(1)
        try:
            self.connection.connect(descriptor_socket(socket_path))
            greeting = self.packet()
            assert isinstance(greeting, Greeting), greeting
            self.token = greeting.token
            self._messages.connect(f"ipc://{socket_path}")
            if hello:
                self.send(Hello(next(self._numbers), PROTOCOL, "0.test", os.getpid(), "by hand", 0))
                welcome = self.message()
                assert isinstance(welcome, Welcome), welcome
        except BaseException:
            self.close()
            raise

    # --- the descriptor socket ------------------------------------------------------------------

    def packet(self) -> FromDaemon | None:
        """The next packet, after closing its descriptors; None at the end of the connection."""
        data, descriptors, _, _ = socket.recv_fds(self.connection, MAX_PACKET_BYTES, ROOM)
        for descriptor in descriptors:
            os.close(descriptor)
        return decode_from_daemon(data) if data else None

    def hand(
        self, names: Sequence[str], descriptors: Sequence[int], transfer: int = 1
    ) -> FromDaemon | None:
        """Send one batch unchecked, and return the answer."""
        direct = len(descriptors) > len(names)
        files = Files(transfer, tuple(HandedFile(name, direct) for name in names))
        return self.hand_bytes(encode_packet(files), descriptors)

    def hand_bytes(self, data: bytes, descriptors: Sequence[int]) -> FromDaemon | None:
        """Send any bytes with any descriptors, and return the answer."""
        socket.send_fds(self.connection, [data], list(descriptors))
        return self.packet()

    # --- messages -------------------------------------------------------------------------------

    def send(self, message: Message, token: bytes | None = None) -> None:
        self._messages.send((self.token if token is None else token) + encode(message))

    def message(self) -> DaemonMessage:
        """The next message that is not a heartbeat."""
        while True:
            if not self._messages.poll(int(ANSWER_S * 1000)):
                raise AssertionError(f"the daemon said nothing within {ANSWER_S} s")
            message = decode_daemon(self._messages.recv())
            if not isinstance(message, Heartbeat):
                return message

    def hears_nothing(self) -> bool:
        """Whether no message is there now."""
        return not self._messages.poll(0)

    def ask_for(self, transfer: int, load: int = 1, want: FirstWant = "all") -> None:
        """Ask for a load of a transfer."""
        number = next(self._numbers)
        self.send(Open(number, load, "by hand", transfer, want=want, options=NOT_HELD))

    def open(self, transfer: int, load: int = 1, want: FirstWant = "all") -> Opened | Failed:
        """Ask for a load of a transfer, and return the answer."""
        self.ask_for(transfer, load, want)
        while not isinstance(message := self.message(), Opened | Failed):
            pass
        return message

    def open_of(self, name: str, descriptors: Sequence[int]) -> str:
        """Hand one file over and open it; return `opened`, or the code of the refusal."""
        taken = self.hand([name], descriptors)
        if isinstance(taken, Refused):
            return taken.code
        assert isinstance(taken, Taken), taken
        answer = self.open(taken.transfer)
        return answer.code if isinstance(answer, Failed) else "opened"

    # --- end ------------------------------------------------------------------------------------

    def close(self) -> None:
        self.connection.close()
        self._messages.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def greeting_of(socket_path: str) -> tuple[socket.socket, FromDaemon]:
    """Connect to the descriptor socket and stop; return the connection and its greeting."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(ANSWER_S)
    try:
        connection.connect(descriptor_socket(socket_path))
        return connection, decode_from_daemon(connection.recv(MAX_PACKET_BYTES))
    except BaseException:
        connection.close()
        raise
