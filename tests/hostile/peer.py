"""A peer of the daemon that keeps no rules: it sends any bytes, descriptors and tokens, on either
socket.

Unlike `tests.support.raw_client` it expects no answer, and accepts the end of a connection as one.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self

import zmq

from streamer_client.contract.codec import encode
from streamer_client.contract.handover import (
    MAX_PACKET_BYTES,
    TOKEN_BYTES,
    Greeting,
    decode_from_daemon,
)
from streamer_client.contract.messages import PROTOCOL, Hello
from streamer_client.contract.socket import descriptor_socket

ANSWER_S: Final = 20.0
"""A daemon that takes nothing for this many seconds hangs."""
LOOK_S: Final = 0.05


class Hung(AssertionError):
    """The daemon takes no bytes and does not end the connection."""


class Ended(Exception):
    """The daemon ended this peer's connection."""


class Peer:
    """One peer. A context manager that leaves without a goodbye."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        socket_path: str,
        routing_id: bytes = b"",
    ) -> None:
        self.packets = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._messages = context.socket(zmq.DEALER)
        self._ends: zmq.Socket[bytes] | None = None
        try:
            self.packets.settimeout(ANSWER_S)
            self.packets.connect(descriptor_socket(socket_path))
            greeting = decode_from_daemon(self.packets.recv(MAX_PACKET_BYTES))
            if not isinstance(greeting, Greeting):
                raise Ended
            self.token = greeting.token
            self.packets.setblocking(False)
            self._ends = self._messages.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            self._messages.setsockopt(zmq.LINGER, 0)
            self._messages.setsockopt(zmq.RECONNECT_IVL, -1)
            if routing_id:
                self._messages.routing_id = routing_id
            self._messages.connect(f"ipc://{socket_path}")
        except BaseException:
            self.close()
            raise

    def greet(self, label: str = "hostile") -> None:
        """Say Hello, as an honest client does."""
        self.say(encode(Hello(1, PROTOCOL, "0.hostile", 1, label)))

    def say(self, body: bytes, token: bytes | None = None) -> None:
        """Send a message, with one's own token or another.

        Raises:
            Ended: the connection is no more.
            Hung: nothing is taken.
        """
        message = (self.token if token is None else token) + body

        def sent() -> bool:
            try:
                self._messages.send(message, zmq.NOBLOCK)
            except zmq.Again:
                self._messages.poll(int(LOOK_S * 1000), zmq.POLLOUT)
                return False
            return True

        self._await(sent)

    def pack(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a packet.

        Raises:
            Ended: the connection is no more.
            Hung: nothing is taken.
        """

        def room() -> bool:
            return bool(select.select([], [self.packets], [], LOOK_S)[1])

        self._await(room)
        try:
            socket.send_fds(self.packets, [data], list(descriptors))
        except BlockingIOError:
            return
        except OSError as error:
            raise Ended from error

    def _await(self, can_send: Callable[[], bool]) -> None:
        for _ in range(int(ANSWER_S / LOOK_S)):
            if can_send():
                return
            self._hear_packets()
            if self._ends is not None and self._ends.poll(0):
                raise Ended
        raise Hung(f"nothing was taken within {ANSWER_S} s")

    def hear(self) -> int:
        """Read all that has come; how many messages.

        Raises:
            Ended: the connection is no more.
        """
        heard = 0
        with contextlib.suppress(zmq.Again):
            while True:
                self._messages.recv(zmq.NOBLOCK)
                heard += 1
        self._hear_packets()
        return heard

    def _hear_packets(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    data = self.packets.recv(MAX_PACKET_BYTES)
                except ConnectionError as error:
                    raise Ended from error
                if not data:
                    raise Ended

    def close(self) -> None:
        self.packets.close()
        if self._ends is not None and not self._messages.closed:
            self._messages.disable_monitor()
            self._ends.close(linger=0)
        self._messages.close(linger=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


WRONG_TOKEN: Final = bytes(TOKEN_BYTES)
NO_TOKEN: Final = b""
