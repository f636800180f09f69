"""More connections than a daemon has descriptors: it lives, and serves the clients that speak.

libzmq ends the process if accept(2) finds no descriptor left; see `control/connections.py`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from streamer_client.client import daemon_client
from streamer_client.connecting.connection import HANDSHAKE_TIMEOUT_S
from streamer_client.contract.codec import decode_daemon, encode
from streamer_client.contract.handover import MAX_PACKET_BYTES, Greeting, decode_from_daemon
from streamer_client.contract.messages import GetStatus, Status, Welcome
from streamer_client.contract.socket import descriptor_socket
from streamerd.control.connections import CLAIM_S
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess, Daemons
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

DESCRIPTORS = 1024
SILENT = 1110
ANSWER_MS = 5000
SETTLED_S = 3 * CLAIM_S


@pytest.fixture
def poor(daemon_maker: Daemons) -> DaemonProcess:
    """A daemon that may open few files."""
    return daemon_maker.start(before=("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"))


@contextlib.contextmanager
def silent(path: str, kind: socket.SocketKind, count: int = SILENT) -> Iterator[int]:
    """Open connections that say nothing; yields how many the kernel accepted."""
    with contextlib.ExitStack() as kept:
        taken = 0
        for _ in range(count):
            made = kept.enter_context(socket.socket(socket.AF_UNIX, kind))
            made.setblocking(False)
            with contextlib.suppress(OSError):
                made.connect(path)
                taken += 1
        yield taken


def descriptors_of(daemon: DaemonProcess) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def served(daemon: DaemonProcess) -> float:
    """Seconds until a new client gets the status."""
    began_s = time.monotonic()
    with daemon_client(daemon.socket, reconnect_s=0) as client:
        assert client.admin.status()["pid"] == daemon.pid
    return time.monotonic() - began_s


def test_silent_connections_neither_end_the_daemon_nor_keep_others_out(poor: DaemonProcess) -> None:
    before = descriptors_of(poor)
    with silent(poor.socket, socket.SOCK_STREAM) as taken:
        assert taken > DESCRIPTORS
        assert served(poor) < HANDSHAKE_TIMEOUT_S
        # The daemon closes the silent connections although this process holds all its ends open.
        eventually(lambda: descriptors_of(poor) <= before, SETTLED_S)
        served(poor)
    assert poor.process.poll() is None
    assert "event=too_many_connections" in poor.log


def test_connections_that_speak_and_present_no_token_are_let_go(poor: DaemonProcess) -> None:
    before = descriptors_of(poor)
    context = zmq.Context()
    made = [context.socket(zmq.DEALER) for _ in range(DESCRIPTORS // 4 + 10)]
    try:
        for number, each in enumerate(made):
            each.setsockopt(zmq.RECONNECT_IVL, -1)
            each.connect(f"ipc://{poor.socket}")
            if number % 2:
                each.send(b"no token at all, and no message either")
        assert served(poor) < HANDSHAKE_TIMEOUT_S
        eventually(lambda: descriptors_of(poor) <= before, SETTLED_S)
    finally:
        for each in made:
            each.close(linger=0)
        context.term()


def test_a_client_that_is_served_stays(poor: DaemonProcess, tmp_path: Path) -> None:
    (file,) = write_model(tmp_path / "m", shards=1, blocks=40)
    with (
        daemon_client(poor.socket, reconnect_s=0) as client,
        client.open(tmp_path / "m", hold=False, memory_limit=0) as checkpoint,
    ):
        tensors = checkpoint.tensors()
        read = [next(tensors)]
        with silent(poor.socket, socket.SOCK_STREAM):
            read += list(tensors)
    assert len(read) == len(checkpoint.catalog)
    assert file.exists()


def test_silent_connections_to_the_descriptor_socket(poor: DaemonProcess) -> None:
    with RawClient(poor.socket) as old:
        with silent(descriptor_socket(poor.socket), socket.SOCK_SEQPACKET):
            old.send(old.hello())
            # The client said Hello before. Any answer shows that it is still served.
            old.receive()
        assert served(poor) < HANDSHAKE_TIMEOUT_S
    assert poor.process.poll() is None


def test_what_a_client_leaves_unread_goes_with_its_session(poor: DaemonProcess) -> None:
    before = descriptors_of(poor)
    gone = RawClient(poor.socket)
    gone.connection.close()
    # The daemon's descriptors go although the client's ZeroMQ socket is still open.
    eventually(lambda: descriptors_of(poor) <= before)
    gone.abandon()


def test_a_session_ends_no_connection_but_its_own(poor: DaemonProcess) -> None:
    """Descriptors' numbers are used again: a number that belonged to one connection may belong to
    another.
    """
    context = zmq.Context()
    old = RawClient(poor.socket)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.connect(descriptor_socket(poor.socket))
        greeting = decode_from_daemon(link.recv(MAX_PACKET_BYTES))
        assert isinstance(greeting, Greeting)
        both = descriptors_of(poor)
        old.close_messages()
        eventually(lambda: descriptors_of(poor) == both - 1)
        with context.socket(zmq.DEALER) as new:
            new.linger = 0
            new.connect(f"ipc://{poor.socket}")
            new.send(greeting.token + encode(old.hello()))
            assert new.poll(ANSWER_MS)
            assert isinstance(decode_daemon(new.recv()), Welcome)
            old.connection.close()
            # The daemon closes the old client's connection and the descriptor of its process.
            eventually(lambda: descriptors_of(poor) == both - 2)
            new.send(greeting.token + encode(GetStatus(2)))
            assert new.poll(ANSWER_MS)
            assert isinstance(decode_daemon(new.recv()), Status)
    context.term()
