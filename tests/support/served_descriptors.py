"""A descriptor socket served in the test's own loop, and clients of it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence

from streamer_client.contract.errors import RequestRefused
from streamer_client.contract.handover import (
    Files,
    FromDaemon,
    Greeting,
    HandedFile,
    Packet,
    decode_from_daemon,
    encode_packet,
)
from streamer_client.contract.messages import PROTOCOL
from streamerd.control.descriptors import (
    DescriptorSocket,
)
from streamerd.control.sessions import Session, Sessions
from tests.support.in_loop import until


class Served:
    """A served listening socket, the packets that it received, and the sessions that ended."""

    def __init__(self) -> None:
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listening.bind("")
        self.listening.listen()
        self.gone: list[Session] = []
        self.taken: list[tuple[Files, list[int]]] = []
        self.discarded: list[int] = []
        self.refuses: str = ""
        self.full = False
        self.sessions = Sessions(self._ended)
        self.served = DescriptorSocket(
            self.sessions, self._receive, self._discard, lambda _session: not self.full
        )
        self.served.open(self.listening)

    def _ended(self, session: Session) -> None:
        self.gone.append(session)
        self.served.forget(session)

    def _receive(self, _session: Session, packet: Files, descriptors: list[int]) -> int:
        self.taken.append((packet, descriptors))
        if self.refuses:
            raise RequestRefused(self.refuses)
        return sum(len(files.files) for files, _ in self.taken)

    def _discard(self, _uid: int, descriptors: Sequence[int]) -> None:
        self.discarded += descriptors
        for descriptor in descriptors:
            os.close(descriptor)

    def close(self) -> None:
        self.served.close()
        self.sessions.close()
        self.listening.close()
        for _, descriptors in self.taken:
            for descriptor in descriptors:
                os.close(descriptor)


class Client:
    """One connection, in the test's own loop."""

    def __init__(self, served: Served) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.connect(served.listening.getsockname())
        self.connection.setblocking(False)
        self.received: list[int] = []

    def send(self, packet: Packet | bytes, *descriptors: int) -> None:
        data = packet if isinstance(packet, bytes) else encode_packet(packet)
        socket.send_fds(self.connection, [data], descriptors)

    async def hears(self) -> FromDaemon | None:
        """The next packet; None at the end of the connection."""
        heard: list[FromDaemon | None] = []

        def listen() -> bool:
            with contextlib.suppress(BlockingIOError):
                try:
                    data, descriptors, _, _ = socket.recv_fds(self.connection, 1 << 17, 253)
                except ConnectionError:
                    data, descriptors = b"", []
                self.received += descriptors
                heard.append(decode_from_daemon(data) if data else None)
            return bool(heard)

        await until(listen)
        return heard[0]

    def close(self) -> None:
        self.connection.close()
        for descriptor in self.received:
            os.close(descriptor)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[Served]:
    made = Served()
    try:
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def greeted(made: Served) -> AsyncIterator[tuple[Client, Session]]:
    client = Client(made)
    try:
        greeting = await client.hears()
        assert isinstance(greeting, Greeting)
        session = made.sessions.presented(greeting.token)
        assert session is not None
        assert (greeting.protocol, greeting.proof) == (PROTOCOL, session.proof)
        yield client, session
    finally:
        client.close()


def files(count: int, transfer: int = 1, *, direct: bool = False) -> Files:
    return Files(transfer, tuple(HandedFile(f"/{at}", direct) for at in range(count)))


@contextlib.contextmanager
def opened(count: int) -> Iterator[list[int]]:
    """So many open descriptors, as a client has them."""
    made = [os.memfd_create("file") for _ in range(count)]
    try:
        yield made
    finally:
        for descriptor in made:
            os.close(descriptor)
