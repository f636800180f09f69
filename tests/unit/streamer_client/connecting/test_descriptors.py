"""The client's end of the descriptor socket, over a pair of sockets, without a thread."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.support.unprivileged import as_nobody

from streamer_client.connecting.descriptors import DescriptorLink, Handover
from streamer_client.contract.errors import (
    ConfigError,
    DaemonUnavailable,
    ProtocolMismatch,
    RequestRefused,
    SourceForbidden,
    StreamerError,
)
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_NAME_BYTES,
    MAX_PACKET_BYTES,
    Files,
    Got,
    Greeting,
    Packet,
    Refused,
    Slabs,
    Taken,
    decode_from_client,
    encode_packet,
)
from streamer_client.storage.local_files import LocalFile

WAIT_S: Final = 10.0


class Pair:
    """A link, and the daemon's end of it."""

    def __init__(self) -> None:
        theirs, self.daemon = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        self.daemon.setblocking(False)
        self.link = DescriptorLink(theirs, "/run/s")
        self.slabs: list[tuple[int, tuple[int, ...], list[int]]] = []

    def receive(self) -> None:
        """Let the link read the packets that have come."""
        self.link.receive(lambda *slabs: self.slabs.append(slabs))

    def say(self, packet: Packet, descriptors: tuple[int, ...] = ()) -> None:
        socket.send_fds(self.daemon, [encode_packet(packet)], descriptors)

    def hear(self) -> tuple[Packet, int] | None:
        """The client's next packet, and how many descriptors came with it."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(self.daemon, MAX_PACKET_BYTES, 253)
        except BlockingIOError:
            return None
        for descriptor in descriptors:
            os.close(descriptor)
        assert not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        return decode_from_client(data), len(descriptors)

    def batch(self) -> tuple[Files, int]:
        heard = self.hear()
        assert heard is not None, "no batch was sent"
        packet, count = heard
        assert isinstance(packet, Files)
        return packet, count

    def close(self) -> None:
        self.link.close()
        self.daemon.close()
        for _, _, descriptors in self.slabs:
            for descriptor in descriptors:
                os.close(descriptor)


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LocalFile]:
    """One file, whose descriptors stand for those of many files."""
    (tmp_path / "m.safetensors").write_bytes(b"bytes")
    opened = LocalFile(str(tmp_path / "m.safetensors"))
    if opened.direct_fd is None:
        opened.direct_fd = os.dup(opened.fd)
    yield opened
    opened.close()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[LocalFile]:
    """A file that is not read with O_DIRECT."""
    (tmp_path / "p.safetensors").write_bytes(b"bytes")
    opened = LocalFile(str(tmp_path / "p.safetensors"), direct=False)
    yield opened
    opened.close()


class Outcome:
    """The error with which a handover ended, if any."""

    def __init__(self) -> None:
        self.told: list[StreamerError | None] = []

    def __call__(self, error: StreamerError | None) -> None:
        self.told.append(error)


# --- files in -------------------------------------------------------------------------------------


def test_descriptors_travel_64_at_a_time_each_batch_acknowledged(
    pair: Pair, file: LocalFile
) -> None:
    done = Outcome()
    pair.link.begin(Handover(3, [file] * 520, done))
    arrived = 0
    while arrived < 520:
        packet, count = pair.batch()
        assert count == 2 * len(packet.files) <= BATCH_DESCRIPTORS
        assert pair.hear() is None, "a second batch was sent before the first was acknowledged"
        assert not done.told
        arrived += len(packet.files)
        pair.say(Taken(3, arrived))
        pair.receive()
    assert done.told == [None]
    assert arrived == 520
    assert pair.hear() is None


def test_a_pair_is_never_torn_apart(pair: Pair, file: LocalFile, plain: LocalFile) -> None:
    """A batch already has 63 descriptors when a file comes that has two."""
    files = [plain] * 63 + [file] * 2
    pair.link.begin(Handover(1, files, Outcome()))
    first, count = pair.batch()
    assert (len(first.files), count) == (63, 63)
    pair.say(Taken(1, 63))
    pair.receive()
    second, count = pair.batch()
    assert ([one.direct for one in second.files], count) == ([True, True], 4)


def test_long_names_make_smaller_batches(pair: Pair, plain: LocalFile) -> None:
    plain.uri = "/" + "é" * (MAX_NAME_BYTES // 2 - 1)
    pair.link.begin(Handover(1, [plain] * 40, Outcome()))
    packet, count = pair.batch()
    assert 1 <= count == len(packet.files) < 40
    assert len(encode_packet(packet)) <= MAX_PACKET_BYTES


def test_a_name_that_fills_a_batch_alone_is_still_sent(pair: Pair, plain: LocalFile) -> None:
    plain.uri = "/" + "x" * (MAX_PACKET_BYTES * 7 // 8)
    pair.link.begin(Handover(1, [plain] * 2, Outcome()))
    assert pair.batch()[1] == 1


def test_handovers_go_one_after_the_other(pair: Pair, plain: LocalFile) -> None:
    first, second = Outcome(), Outcome()
    pair.link.begin(Handover(1, [plain], first))
    pair.link.begin(Handover(2, [plain], second))
    assert pair.batch()[0].transfer == 1
    assert pair.hear() is None
    pair.say(Taken(1, 1))
    pair.receive()
    assert (first.told, second.told) == ([None], [])
    assert pair.batch()[0].transfer == 2


def test_a_refused_transfer_is_told_and_the_next_goes_on(pair: Pair, plain: LocalFile) -> None:
    first, second = Outcome(), Outcome()
    pair.link.begin(Handover(1, [plain] * 100, first))
    pair.link.begin(Handover(2, [plain], second))
    pair.batch()
    pair.say(Refused("source-forbidden", "no right to it", 1))
    pair.receive()
    (error,) = first.told
    assert isinstance(error, SourceForbidden)
    assert pair.batch()[0].transfer == 2
    assert not second.told


def test_a_refused_connection_ends_it(pair: Pair) -> None:
    pair.say(Refused("refused", "you were asked to leave"))
    with pytest.raises(DaemonUnavailable, match="asked to leave") as caught:
        pair.receive()
    assert isinstance(caught.value.__cause__, RequestRefused)


@pytest.mark.parametrize("transfer", [1, 2])
def test_what_was_not_sent_cannot_be_taken(pair: Pair, plain: LocalFile, transfer: int) -> None:
    if transfer == 2:
        pair.link.begin(Handover(1, [plain], Outcome()))
    pair.say(Taken(transfer, 1))
    with pytest.raises(ProtocolMismatch, match="which were not sent"):
        pair.receive()


def test_who_waits_is_told_of_the_end(pair: Pair, plain: LocalFile) -> None:
    outcomes = [Outcome(), Outcome()]
    for number, outcome in enumerate(outcomes, 1):
        pair.link.begin(Handover(number, [plain], outcome))
    error = DaemonUnavailable("gone")
    pair.link.lose(error)
    pair.link.lose(error)
    assert [outcome.told for outcome in outcomes] == [[error], [error]]


def test_a_withdrawn_handover_sends_no_more(pair: Pair, plain: LocalFile) -> None:
    """The client closes the transfer's files next; batches that are on their way are acknowledged
    as before.
    """
    first, second = Outcome(), Outcome()
    handovers = [Handover(1, [plain] * 100, first), Handover(2, [plain] * 100, second)]
    for handover in handovers:
        pair.link.begin(handover)
    assert pair.batch()[1] == 64
    for handover in handovers:
        pair.link.withdraw(handover)
        pair.link.withdraw(handover)
    assert (first.told, second.told) == ([], [None])
    pair.say(Taken(1, 64))
    pair.receive()
    assert first.told == [None]
    assert pair.hear() is None


def test_what_has_no_room_is_sent_later(pair: Pair, plain: LocalFile) -> None:
    """The socket's own buffer is full, and the wire's thread does not wait for it."""
    filling = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            pair.link._connection.send(bytes(MAX_PACKET_BYTES // 2))
            filling += 1
    pair.link.begin(Handover(1, [plain], Outcome()))
    due_s = pair.link.due_s
    assert due_s is not None
    assert due_s <= 0.005
    for _ in range(filling):
        pair.daemon.recv(MAX_PACKET_BYTES)
    pair.link.flush()
    assert pair.batch()[1] == 1
    assert pair.link.due_s is None


def _too_many_on_their_way(file: LocalFile) -> str:
    """The test runs as a user to whom the limit applies; it does not apply to root."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    others, received = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for _ in range(4):
        with contextlib.suppress(OSError):  # the limit of 128 refuses the last sends
            socket.send_fds(others, [b"x"], [file.fd] * 50)
    pair, done = Pair(), Outcome()
    pair.link.begin(Handover(1, [file] * 64, done))
    waited = pair.link.due_s is not None and pair.hear() is None
    received.close()
    others.close()
    pair.link.flush()
    _, count = pair.batch()
    pair.say(Taken(1, 64))
    pair.receive()
    return f"waited={waited} sent={count} told={done.told} due={pair.link.due_s}"


def test_too_many_descriptors_on_their_way_are_waited_for(plain: LocalFile) -> None:
    assert as_nobody(lambda: _too_many_on_their_way(plain)) == (
        "waited=True sent=64 told=[None] due=None"
    )


# --- slabs out ------------------------------------------------------------------------------------


def test_each_batch_of_slabs_is_acknowledged(pair: Pair, plain: LocalFile) -> None:
    pair.say(Slabs(7, (0, 2)), (plain.fd, plain.fd))
    pair.say(Slabs(7, (3,)), (plain.fd,))
    pair.receive()
    assert [(load, shards, len(fds)) for load, shards, fds in pair.slabs] == [
        (7, (0, 2), 2),
        (7, (3,), 1),
    ]
    assert [pair.hear(), pair.hear(), pair.hear()] == [(Got(7), 0), (Got(7), 0), None]


def test_received_descriptors_end_with_the_program(pair: Pair, plain: LocalFile) -> None:
    pair.say(Slabs(7, (0,)), (plain.fd,))
    pair.receive()
    ((_, _, (descriptor,)),) = pair.slabs
    assert not os.get_inheritable(descriptor)


def test_descriptors_that_are_kept_back_are_an_error_that_says_why(
    pair: Pair, plain: LocalFile
) -> None:
    """Three descriptors come where there is room for one: the kernel passes one and a flag, and
    reports no error.
    """
    pair.say(Slabs(7, (0, 1, 2)), (plain.fd,) * 3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(plain.fd)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
    try:
        with pytest.raises(DaemonUnavailable, match=r"withheld.*ulimit -n.*SELinux"):
            pair.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not pair.slabs


@pytest.mark.parametrize(
    ("packet", "count"), [(Slabs(7, (0, 1)), 1), (Slabs(7, (0,)), 2), (Taken(1, 1), 1)]
)
def test_another_number_of_descriptors_than_was_told(
    pair: Pair, plain: LocalFile, packet: Packet, count: int
) -> None:
    """The descriptors are closed: otherwise the leak check would find them."""
    pair.say(packet, (plain.fd,) * count)
    with pytest.raises(ProtocolMismatch, match="descriptors came where"):
        pair.receive()


def test_garbage_with_descriptors_leaves_none_open(pair: Pair, plain: LocalFile) -> None:
    socket.send_fds(pair.daemon, [b"\xc1"], [plain.fd])
    with pytest.raises(ProtocolMismatch):
        pair.receive()


def test_a_packet_that_is_too_long(pair: Pair) -> None:
    pair.daemon.send(bytes(MAX_PACKET_BYTES + 1))
    with pytest.raises(ProtocolMismatch, match="too long"):
        pair.receive()


def test_greeted_twice(pair: Pair) -> None:
    pair.say(Greeting(4, "1", bytes(16), bytes(16)))
    with pytest.raises(ProtocolMismatch, match="greeted twice"):
        pair.receive()


# --- ends -----------------------------------------------------------------------------------------


def test_the_daemons_end_is_told(pair: Pair, plain: LocalFile) -> None:
    pair.daemon.close()
    with pytest.raises(DaemonUnavailable, match="/run/s closed the connection or died"):
        pair.receive()
    with pytest.raises(DaemonUnavailable, match="/run/s closed the connection or died"):
        pair.link.begin(Handover(1, [plain], Outcome()))


def test_a_forked_child_does_not_keep_the_connection(pair: Pair) -> None:
    """The daemon takes the end of the connection for the client's end, whatever
    children live on.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    try:
        pair.link.close()
        pair.daemon.settimeout(WAIT_S)
        assert pair.daemon.recv(1) == b""
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child was to live on"
    finally:
        os.close(write_end)
        os.waitpid(child, 0)


def test_closing_is_idempotent(pair: Pair) -> None:
    pair.link.close()
    pair.link.close()
    assert pair.link.fileno() == -1


def test_a_path_that_leaves_no_room_for_the_second_socket(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 104 bytes"):
        DescriptorLink.to("/" + "x" * 104, 1.0)
    with pytest.raises(DaemonUnavailable, match="no daemon answers"):
        DescriptorLink.to(str(tmp_path / "s"), 1.0)
