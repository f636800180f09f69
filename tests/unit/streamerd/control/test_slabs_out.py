"""Slabs that go out over the descriptor socket, a batch at a time."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from unittest import mock

from tests.support.in_loop import in_loop, until
from tests.support.served_descriptors import files, greeted, opened, served

from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    Got,
    Refused,
    Slabs,
    Taken,
)
from streamerd.control.descriptors import (
    OpenedSlab,
)


class Slab:
    """Opens stand-ins for slabs, and counts them."""

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
    """ETOOMANYREFS: the kernel counts the descriptors that all processes of a user have on their
    way.
    """
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
