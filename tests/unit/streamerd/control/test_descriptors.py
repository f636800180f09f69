"""Files that come in over the descriptor socket, and clients that misuse it."""

from __future__ import annotations

import contextlib
import os
import socket
from unittest import mock

import pytest
from tests.support.in_loop import in_loop, until
from tests.support.served_descriptors import Client, files, greeted, opened, served

from streamer_client.connecting.packet_socket import Received, receive_packet
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Got,
    Packet,
    Refused,
    Taken,
    encode_packet,
)
from streamerd.control import descriptors as descriptors_module
from streamerd.control.descriptors import (
    MAX_PACKETS_A_TURN,
    MAX_UNREAD_PACKETS,
)


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
    """A security module withholds descriptors in this way, and so does a process that has no room
    for them.
    """
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
