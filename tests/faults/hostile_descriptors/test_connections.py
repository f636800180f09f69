"""Connections of strangers, of other versions and of idle peers: each gets an answer, and none
holds others up.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest

from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    Greeting,
    Refused,
    Taken,
    encode_packet,
)
from streamer_client.contract.limits import MAX_CLIENTS_PER_USER
from streamer_client.contract.messages import (
    PROTOCOL,
    Failed,
    GetStatus,
    Hello,
)
from streamer_client.contract.socket import descriptor_socket
from tests.support.daemon import DaemonProcess, Daemons
from tests.support.descriptor_peer import DescriptorPeer, greeting_of
from tests.support.visitor import Refusal, Visitor, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import (
    needs_root,
    status_of,
    with_limit,
)


def test_messages_without_a_token_of_a_living_connection_are_not_served(
    daemon: DaemonProcess,
) -> None:
    with DescriptorPeer(daemon.socket, hello=False) as gone:
        token = gone.token
    with DescriptorPeer(daemon.socket) as peer:
        for stale in (token, b"\0" * 16, b"", token[:7]):
            with DescriptorPeer(daemon.socket, hello=False) as thief:
                thief.send(GetStatus(3), token=stale)
                answer = thief.message()
                assert isinstance(answer, Failed)
                assert answer.request_id == -1
        peer.send(GetStatus(4))
        assert getattr(peer.message(), "request_id", None) == 4


@pytest.mark.parametrize("protocol", [0, PROTOCOL - 1, PROTOCOL + 1])
def test_a_client_of_another_version_is_told_so(daemon: DaemonProcess, protocol: int) -> None:
    with DescriptorPeer(daemon.socket, hello=False) as peer:
        peer.send(Hello(1, protocol, "9.9", os.getpid(), "other", 0))
        answer = peer.message()
        assert isinstance(answer, Failed)
        assert answer.code == "protocol-mismatch"
        assert "same version" in answer.message


def test_a_client_that_knows_no_descriptor_socket_is_told_so(daemon: DaemonProcess) -> None:
    """Clients of protocol 3 were such: their first message has no token."""
    with DescriptorPeer(daemon.socket, hello=False) as peer:
        peer.send(Hello(1, 3, "0.0", os.getpid(), "old", 0), token=b"")
        answer = peer.message()
        assert isinstance(answer, Failed)
        assert answer.code == "protocol-mismatch"


@pytest.mark.parametrize(
    "data",
    [
        encode_packet(Greeting(PROTOCOL + 1, "9.9", b"t" * 16, b"p" * 16)),
        encode_packet(Taken(1, 1)),
        b"\xc1",
        b"\x81\xa4type\xa1\xff",
        b"\x91" * 60_000,
    ],
    ids=["newer", "no greeting", "no msgpack", "bad UTF-8", "nested"],
)
def test_a_client_refuses_a_daemon_that_greets_as_no_daemon_of_its_version(
    tmp_path: Path, data: bytes
) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening, Visitor() as client:
        listening.bind(descriptor_socket(path))
        listening.listen()
        client.begin("connect", socket=path)
        connection, _ = listening.accept()
        with connection:
            connection.send(data)
            with pytest.raises(Refusal) as refused:
                client.answer()
            assert refused.value.kind == "ProtocolMismatch"
            assert connection.recv(1) == b""  # the client sent nothing and left


def test_a_client_that_never_reads_its_slabs_holds_nobody_up(
    daemon: DaemonProcess, model: list[Path]
) -> None:
    """The client opens one load after the other and takes no slab; others are served meanwhile."""
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as deaf:
            assert isinstance(deaf.hand(["m"], [fd]), Taken)
            for load in range(1, 5):
                deaf.ask_for(1, load)
            with Visitor() as client:
                assert client.load(daemon.socket, model[0].parent)["mode"] == "daemon"
    finally:
        os.close(fd)


def test_silent_connections_without_end_do_not_end_the_daemon(daemon: DaemonProcess) -> None:
    connections = []
    try:
        for _ in range(MAX_CLIENTS_PER_USER + 100):
            with contextlib.suppress(OSError):
                connections.append(greeting_of(daemon.socket)[0])
    finally:
        for connection in connections:
            connection.close()
    eventually(lambda: _has_room(daemon))


def _has_room(daemon: DaemonProcess) -> bool:
    """Whether this user may connect again."""
    connection, packet = greeting_of(daemon.socket)
    connection.close()
    return isinstance(packet, Greeting)


@needs_root()
def test_a_daemon_with_few_descriptors_refuses_and_lives(
    daemon_maker: Daemons, model: list[Path]
) -> None:
    """The limit is 256. A peer hands over more files than that and leaves; then others
    are served.
    """
    daemon = daemon_maker.start(before=with_limit(256, 256))
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            answer: object = None
            for _ in range(8):
                answer = peer.hand(["m"] * BATCH_DESCRIPTORS, [fd] * BATCH_DESCRIPTORS)
                if not isinstance(answer, Taken):
                    break
            assert answer is None or isinstance(answer, Refused)
    finally:
        os.close(fd)

    def served() -> bool:
        with Visitor() as client:
            found = client.load(daemon.socket, model[0].parent)
        return bool(found["digests"] == digests_of(model))

    assert eventually(served)
    assert status_of(daemon.socket)["pid"] == daemon.pid


def test_the_sender_of_a_fifo_that_nobody_fills_holds_no_thread(
    daemon: DaemonProcess, model: list[Path], tmp_path: Path
) -> None:
    """A FIFO that is opened for reading and writing has no end and no bytes.

    A good load goes on beside it.
    """
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            for transfer in range(1, 9):
                peer.hand(["fifo"], [fd], transfer)
            with Visitor() as client:
                assert client.load(daemon.socket, model[0].parent)["mode"] == "daemon"
            assert isinstance(peer.open(1), Failed)
    finally:
        os.close(fd)


def test_the_client_program_refuses_a_fifo_in_a_checkpoint_without_opening_it(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "trap.safetensors")
    with Visitor() as client:
        client.ask("connect", socket=daemon.socket)
        refused = client.refused("open", source=str(tmp_path / "trap.safetensors"))
    assert refused.kind == "SourceError"
