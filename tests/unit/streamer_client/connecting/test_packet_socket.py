"""A packet comes with its descriptors, and none of them is inherited by another program."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from streamer_client.connecting.packet_socket import RECEIVED_DESCRIPTORS, peer_of, receive_packet
from streamer_client.contract.handover import MAX_PACKET_BYTES

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def test_the_kernel_says_who_is_there(pair: Pair) -> None:
    assert peer_of(pair[0]) == (os.getpid(), os.getuid(), os.getgid())


@pytest.mark.parametrize("count", [0, 1, RECEIVED_DESCRIPTORS])
def test_descriptors_come_with_their_packet_and_are_not_inherited(pair: Pair, count: int) -> None:
    ours, theirs = pair
    file = os.memfd_create("file")
    socket.send_fds(theirs, [b"packet"], [file] * count)
    os.close(file)
    data, descriptors, flags = receive_packet(ours)
    inherited = [os.get_inheritable(descriptor) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    assert (data, inherited) == (b"packet", [False] * count)
    assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)


def test_a_packet_that_is_too_long_says_so(pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(bytes(MAX_PACKET_BYTES + 1))
    assert receive_packet(ours).flags & socket.MSG_TRUNC


def test_the_end_is_a_packet_of_nothing_and_nothing_yet_is_none(pair: Pair) -> None:
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        receive_packet(ours)
    theirs.close()
    assert receive_packet(ours)[:2] == (b"", [])
