"""The descriptor socket against clients of every kind: nobody ends it, and nothing stays open."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from unittest import mock

import pytest
from tests.support.in_loop import in_loop, until

from streamer_client.connect.packet_socket import Received, receive_packet
from streamer_client.contract.errors import RequestRefused
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Files,
    FromDaemon,
    Got,
    Greeting,
    HandedFile,
    Packet,
    Refused,
    Slabs,
    Taken,
    decode_from_daemon,
    encode_packet,
)
from streamer_client.contract.messages import PROTOCOL
from streamerd.control import descriptors as descriptors_module
from streamerd.control.descriptors import (
    MAX_PACKETS_A_TURN,
    MAX_UNREAD_PACKETS,
    DescriptorSocket,
    OpenedSlab,
)
from streamerd.control.sessions import Session, Sessions


class Served:
    """A listening socket that is served, what it received, and who was ended."""

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
    """So many descriptors of a client's."""
    made = [os.memfd_create("file") for _ in range(count)]
    try:
        yield made
    finally:
        for descriptor in made:
            os.close(descriptor)


# --- files in -----------------------------------------------------------------------------------


@in_loop
async def test_files_are_received_and_acknowledged_batch_by_batch() -> None:
    async with served() as made, greeted(made) as (client, _):
        with opened(4) as fds:
            client.send(files(2, direct=True), *fds)
            client.send(files(1), fds[0])
        assert await client.hears() == Taken(1, 2)
        assert await client.hears() == Taken(1, 3)
        assert [len(received) for _, received in made.taken] == [4, 1]


@in_loop
async def test_what_is_received_is_not_inherited_by_programs() -> None:
    async with served() as made, greeted(made) as (client, _):
        with opened(1) as fds:
            client.send(files(1), *fds)
        await client.hears()
        assert not os.get_inheritable(made.taken[0][1][0])


@in_loop
async def test_a_refused_transfer_ends_nothing() -> None:
    async with served() as made, greeted(made) as (client, _):
        made.refuses = "no room"
        with opened(1) as fds:
            client.send(files(1, transfer=7), *fds)
            assert await client.hears() == Refused("refused", "no room", 7)
            made.refuses = ""
            client.send(files(1, transfer=8), *fds)
            assert await client.hears() == Taken(8, 2)
        assert made.gone == []


HOSTILE: dict[str, tuple[Packet | bytes, int]] = {
    "more descriptors than told": (files(1), 2),
    "fewer than told": (files(3), 2),
    "none where some were told": (files(1), 0),
    "one where two were told": (files(1, direct=True), 1),
    "a batch that is too large": (files(BATCH_DESCRIPTORS + 1), BATCH_DESCRIPTORS + 1),
    "descriptors with a word that has none": (Got(1), 1),
    "an acknowledgement that nobody asked for": (Got(1), 0),
    "a packet of the daemon's": (Taken(1, 1), 0),
    "no packet at all": (b"\xc1", 0),
    "bytes and descriptors": (b"hello", 3),
    "no bytes and a descriptor": (b"", 1),
    "nested deeply": (b"\x91" * 20_000, 0),
    "bad UTF-8": (b"\x81\xa4type\xa1\xff", 1),
    "too long": (b"x" * (MAX_PACKET_BYTES + 1), 2),
}


@pytest.mark.parametrize("name", HOSTILE)
@in_loop
async def test_a_hostile_packet_ends_its_sender_and_leaves_nothing_open(name: str) -> None:
    packet, count = HOSTILE[name]
    async with served() as made, greeted(made) as (good, _):
        async with greeted(made) as (client, session):
            with opened(count) as fds:
                client.send(packet, *fds)
            refusal = await client.hears()
            assert isinstance(refusal, Refused)
            assert (refusal.code, refusal.transfer) == ("protocol-mismatch", 0)
            assert await client.hears() is None
            assert made.gone == [session]
        assert made.taken == []
        assert len(made.discarded) == count
        with opened(1) as fds:
            good.send(files(1), *fds)
        assert await good.hears() == Taken(1, 1)


@in_loop
async def test_descriptors_that_were_kept_back_end_their_sender() -> None:
    """As a security module does it, or a daemon that has no room for them."""
    async with served() as made, greeted(made) as (client, session):

        def truncated(connection: socket.socket) -> Received:
            packet = receive_packet(connection)
            return packet._replace(flags=packet.flags | socket.MSG_CTRUNC)

        with mock.patch.object(descriptors_module, "receive_packet", truncated), opened(1) as fds:
            client.send(files(1), *fds)
            refusal = await client.hears()
        assert isinstance(refusal, Refused)
        assert "LimitNOFILE" in refusal.message
        assert "SELinux" in refusal.message
        assert made.gone == [session]
        assert len(made.discarded) == 1


@in_loop
async def test_what_came_with_the_end_of_a_client_is_received_or_closed() -> None:
    async with served() as made, greeted(made) as (client, session):
        with opened(2) as fds:
            client.send(files(2), *fds)
        client.connection.close()
        await until(lambda: made.gone == [session])
        assert [len(received) for _, received in made.taken] == [2]


@in_loop
async def test_a_client_that_sends_on_and_on_holds_no_other_up() -> None:
    async with served() as made, greeted(made) as (noisy, _), greeted(made) as (quiet, _):
        with opened(1) as fds:
            for _ in range(3 * MAX_PACKETS_A_TURN):
                noisy.send(files(1), *fds)
            quiet.send(files(1, transfer=99), *fds)
        assert isinstance(await quiet.hears(), Taken)
        place = [packet.transfer for packet, _ in made.taken].index(99)
        assert place <= 2 * MAX_PACKETS_A_TURN


@in_loop
async def test_a_client_that_reads_no_answer_is_ended() -> None:
    async with served() as made, greeted(made) as (client, session):
        client.connection.setblocking(False)

        def send_on() -> bool:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionError):
                for _ in range(MAX_UNREAD_PACKETS):
                    client.connection.send(encode_packet(files(0)))
            return bool(made.gone)

        await until(send_on)
        assert made.gone == [session]


@in_loop
async def test_where_there_is_no_room_the_kernel_keeps_what_is_sent() -> None:
    async with served() as made, greeted(made) as (client, _):
        made.full = True
        with opened(1) as fds:
            client.send(files(1), *fds)
        looks = iter(range(6))
        await until(lambda: next(looks) == 5)
        assert made.taken == []
        made.full = False
        assert await client.hears() == Taken(1, 1)


@in_loop
async def test_too_many_clients_of_a_user_are_told() -> None:
    async with served() as made:
        with mock.patch.object(descriptors_module, "MAX_CLIENTS_PER_USER", 1):
            async with greeted(made) as (client, _):
                second = Client(made)
                refusal = await second.hears()
                assert isinstance(refusal, Refused)
                assert f"user {os.getuid()} has 1 clients here already" in refusal.message
                assert await second.hears() is None
                second.close()
                with opened(1) as fds:
                    client.send(files(1), *fds)
                assert await client.hears() == Taken(1, 1)


# --- slabs out ----------------------------------------------------------------------------------


class Slab:
    """Opens slabs of paper; counts what it opened."""

    def __init__(self, gone: Sequence[int] = ()) -> None:
        self.asked: list[tuple[int, int]] = []
        self.gone = gone

    def open(self, load: int, shard: int) -> OpenedSlab | None:
        self.asked.append((load, shard))
        if shard in self.gone:
            return None
        return OpenedSlab(os.memfd_create("slab"), close=True)


@in_loop
async def test_slabs_go_out_a_batch_at_a_time() -> None:
    async with served() as made, greeted(made) as (client, session):
        slab = Slab()
        count = 2 * BATCH_DESCRIPTORS + 1
        made.served.hand_out(session, 3, range(count), slab.open)
        seen: list[int] = []
        for batch in (BATCH_DESCRIPTORS, BATCH_DESCRIPTORS, 1):
            packet = await client.hears()
            assert isinstance(packet, Slabs)
            assert len(packet.shards) == batch
            assert len(slab.asked) == len(seen) + batch, "opened before its turn"
            seen += packet.shards
            client.send(Got(3))
        assert seen == list(range(count))
        assert len(client.received) == count


@in_loop
async def test_a_client_that_acknowledges_nothing_gets_one_batch() -> None:
    async with served() as made, greeted(made) as (client, session):
        slab = Slab()
        made.served.hand_out(session, 3, range(3 * BATCH_DESCRIPTORS), slab.open)
        made.served.hand_out(session, 4, range(9), slab.open)
        assert isinstance(await client.hears(), Slabs)
        with opened(1) as fds:
            client.send(files(1), *fds)
        assert await client.hears() == Taken(1, 1)
        assert len(slab.asked) == BATCH_DESCRIPTORS


@in_loop
async def test_two_acknowledgements_of_one_batch_end_their_sender() -> None:
    async with served() as made, greeted(made) as (client, session):
        made.served.hand_out(session, 3, [0], Slab().open)
        await client.hears()
        client.send(Got(3))
        client.send(Got(3))
        assert isinstance(await client.hears(), Refused)
        assert made.gone == [session]


@in_loop
async def test_slabs_that_are_gone_are_left_out() -> None:
    async with served() as made, greeted(made) as (client, session):
        made.served.hand_out(session, 3, [0, 1, 2], Slab(gone=[1]).open)
        assert await client.hears() == Slabs(3, (0, 2))
        client.send(Got(3))
        made.served.hand_out(session, 4, [1], Slab(gone=[1]).open)
        made.served.hand_out(session, 5, [0], Slab().open)
        assert await client.hears() == Slabs(5, (0,))


@in_loop
async def test_too_many_on_their_way_are_sent_a_moment_later() -> None:
    """ETOOMANYREFS: the kernel counts what all processes of a user have on its way."""
    async with served() as made, greeted(made) as (client, session):
        slab = Slab()
        refusing = [OSError(errno.ETOOMANYREFS, "too many")] * 3
        send = socket.send_fds

        def sometimes(*arguments: object) -> int:
            if refusing:
                raise refusing.pop()
            return send(*arguments)  # type: ignore[arg-type]

        with mock.patch.object(socket, "send_fds", sometimes):
            made.served.hand_out(session, 3, [0, 1], slab.open)
            assert await client.hears() == Slabs(3, (0, 1))
        assert len(slab.asked) == 8
        assert len(client.received) == 2


@in_loop
async def test_a_client_that_leaves_meanwhile_costs_nothing() -> None:
    async with served() as made, greeted(made) as (client, session):
        slab = Slab()
        made.served.hand_out(session, 3, range(3 * BATCH_DESCRIPTORS), slab.open)
        client.connection.close()
        await until(lambda: made.gone == [session])
        made.served.hand_out(session, 4, [0], slab.open)
        assert len(slab.asked) == BATCH_DESCRIPTORS
