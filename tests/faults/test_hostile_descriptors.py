"""The descriptor socket, spoken to by somebody who wants in: descriptors and packets of every kind.

Promise shown: a descriptor counts only if it was opened for reading and names a regular file;
whatever else arrives is refused, typed, or disconnects its sender, and a good client beside it is
served as before.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Files,
    Got,
    Greeting,
    HandedFile,
    Refused,
    Taken,
    encode_packet,
)
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.limits import MAX_CLIENTS_PER_USER
from streamer_client.contract.messages import (
    PROTOCOL,
    Failed,
    GetStatus,
    Hello,
    Opened,
    ShardFailed,
    Want,
)
from streamer_client.contract.socket import descriptor_socket
from streamerd.answering.files.handovers import MAX_FILES, MAX_TRANSFERS
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons, daemons
from tests.support.descriptor_peer import DescriptorPeer, greeting_of
from tests.support.visitor import Refusal, Visitor, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import (
    leased_bytes,
    needs_root,
    open_files_of,
    shards_of,
    status_of,
    with_limit,
)


@pytest.fixture
def model(tmp_path: Path) -> list[Path]:
    return write_model(tmp_path / "m", shards=1, blocks=2)


@pytest.fixture(scope="module")
def running() -> Iterator[DaemonProcess]:
    """One daemon that goes through all of it."""
    with daemons() as made:
        yield made.start()


@pytest.fixture
def daemon(running: DaemonProcess, model: list[Path]) -> Iterator[DaemonProcess]:
    """One that serves a good client as before, whatever happens meanwhile."""
    yield running
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(running.socket) as peer:
            assert peer.open_of("good", [fd]) == "opened"
    finally:
        os.close(fd)
    status = status_of(running.socket)
    assert (status["pid"], status["totals"]["worker_restarts"]) == (running.pid, 0)
    eventually(lambda: leased_bytes(running.socket) == 0)


# --- descriptors of every kind --------------------------------------------------------------------

Opener = Callable[[Path], int]


def _fifo(folder: Path) -> int:
    os.mkfifo(folder / "f")
    return os.open(folder / "f", os.O_RDWR)


def _socket(_folder: Path) -> int:
    one, other = socket.socketpair()
    other.close()
    return one.detach()


def _write_only(folder: Path) -> int:
    (folder / "f").write_bytes(b"x" * 5000)
    return os.open(folder / "f", os.O_WRONLY)


def _path_only(folder: Path) -> int:
    (folder / "f").write_bytes(b"x" * 5000)
    return os.open(folder / "f", os.O_PATH)


def _direct_only(folder: Path) -> int:
    (folder / "f").write_bytes(b"x" * 5000)
    try:
        return os.open(folder / "f", os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("needs a file system with O_DIRECT")


def _pidfd(_folder: Path) -> int:
    return os.pidfd_open(os.getpid())


KINDS: dict[str, tuple[Opener, str]] = {
    "path": (_path_only, "source-forbidden"),
    "write-only": (_write_only, "source-forbidden"),
    "fifo": (_fifo, "source"),
    "folder": (lambda folder: os.open(folder, os.O_RDONLY), "source"),
    "device": (lambda _: os.open("/dev/zero", os.O_RDONLY), "source"),
    "null": (lambda _: os.open("/dev/null", os.O_RDONLY), "source"),
    "socket": (_socket, "source"),
    "eventfd": (lambda _: os.eventfd(0), "source"),
    "pidfd": (_pidfd, "source"),
    "direct": (_direct_only, "source"),
    "proc": (lambda _: os.open("/proc/self/mem", os.O_RDONLY), "source"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_opened_for_reading_is_refused(
    daemon: DaemonProcess, tmp_path: Path, kind: str
) -> None:
    opener, code = KINDS[kind]
    folder = tmp_path / "hostile"
    folder.mkdir()
    descriptor = opener(folder)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            found = peer.open_of(kind, [descriptor])
    finally:
        os.close(descriptor)
    assert found == code or (kind, found) == ("proc", "opened")


def test_a_file_of_proc_that_claims_to_be_empty_gives_nothing_of_the_daemon(
    daemon: DaemonProcess,
) -> None:
    """/proc/self/mem is a regular file of no size: what it is asked for is never its content."""
    descriptor = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            peer.hand(["mem"], [descriptor])
            answer = peer.open(1)
            assert isinstance(answer, Failed) or answer.shards[0].size_bytes == 0
    finally:
        os.close(descriptor)


def test_one_bad_file_among_good_ones_fails_the_open_and_leaves_nothing(
    daemon: DaemonProcess, model: list[Path], tmp_path: Path
) -> None:
    good = os.open(model[0], os.O_RDONLY)
    bad = os.open(tmp_path, os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            assert isinstance(peer.hand(["good", "bad"], [good, bad][:2]), Taken)
            answer = peer.open(1)
            assert isinstance(answer, Failed)
            assert answer.code == "source"
            assert "bad" in answer.message
    finally:
        os.close(good)
        os.close(bad)
    eventually(lambda: str(model[0]) not in open_files_of(daemon.pid))


def test_a_direct_descriptor_of_another_file_is_not_read_through(
    daemon: DaemonProcess, model: list[Path], tmp_path: Path
) -> None:
    """The pair must be one file: else what is read past the page cache would be another's bytes."""
    (other,) = write_model(tmp_path / "other", shards=1, blocks=2, seed=9)
    fds = [os.open(model[0], os.O_RDONLY), os.open(other, os.O_RDONLY)]
    try:
        with DescriptorPeer(daemon.socket) as peer:
            assert isinstance(peer.hand(["m"], fds), Taken)
            assert isinstance(peer.open(1), Opened)
            eventually(lambda: _resident(daemon, "m") == [2 * BLOCK])
            with Visitor() as client:
                found = client.load(daemon.socket, model[0].parent)
    finally:
        for fd in fds:
            os.close(fd)
    assert found["resident_bytes"] == 2 * BLOCK
    assert found["digests"] == digests_of(model)


def _resident(daemon: DaemonProcess, uri: str) -> list[int]:
    return [row["resident_bytes"] for row in shards_of(daemon.socket) if row["uri"] == uri]


def test_a_file_that_shrinks_after_it_was_opened_fails_typed(
    daemon: DaemonProcess, tmp_path: Path
) -> None:
    (file,) = write_model(tmp_path / "shrinks", shards=1, blocks=4)
    fd = os.open(file, os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            peer.hand(["shrinks"], [fd])
            assert isinstance(peer.open(1, want="none"), Opened)
            os.truncate(file, 10)
            peer.send(Want(1, (BlockRange(0, 0, 4),)))
            while not isinstance(failed := peer.message(), ShardFailed):
                pass
            assert failed.code == "source-changed"
    finally:
        os.close(fd)


@pytest.mark.parametrize("size_bytes", [1 << 62, 1 << 50, 1 << 43])
def test_a_huge_sparse_file_costs_nothing_and_is_refused(
    daemon: DaemonProcess, size_bytes: int
) -> None:
    """Work in proportion to a claimed size comes only after the limit was asked."""
    fd = os.memfd_create("sparse")
    try:
        os.truncate(fd, size_bytes)
        with DescriptorPeer(daemon.socket) as peer:
            assert peer.open_of("sparse", [fd]) == "config"
    finally:
        os.close(fd)


def test_memory_that_looks_like_a_file_is_its_senders_own(
    daemon: DaemonProcess, model: list[Path]
) -> None:
    """What its sender writes to it meanwhile is never served as another file's bytes."""
    fd = os.memfd_create("mine")
    try:
        os.write(fd, model[0].read_bytes())
        with DescriptorPeer(daemon.socket) as peer:
            assert peer.open_of(str(model[0]), [fd]) == "opened"
            os.pwrite(fd, b"poison" * 1000, 70_000)
            with Visitor() as client:
                found = client.load(daemon.socket, model[0].parent)
    finally:
        os.close(fd)
    assert found["digests"] == digests_of(model)


# --- packets --------------------------------------------------------------------------------------


def _ended(peer: DescriptorPeer) -> bool:
    """Whether the daemon ends the connection, after at most a few last words."""
    try:
        while peer.packet() is not None:
            pass
    except ConnectionError:
        pass
    return True


def _files(count: int, *, direct: bool = False, transfer: int = 1, name: str = "x") -> bytes:
    return encode_packet(Files(transfer, tuple(HandedFile(name, direct) for _ in range(count))))


PACKETS: dict[str, tuple[bytes, int]] = {
    "fewer descriptors than files": (_files(3), 2),
    "more descriptors than files": (_files(2), 3),
    "no second descriptor": (_files(1, direct=True), 1),
    "descriptors with no files": (_files(0), 5),
    "an acknowledgement nobody waits for": (encode_packet(Got(1)), 0),
    "an acknowledgement with descriptors": (encode_packet(Got(1)), 2),
    "no msgpack": (b"\xc1\xc1\xc1", 1),
    "bad UTF-8": (b"\x81\xa4type\xa1\xff", 0),
    "nested without end": (b"\x91" * 60_000, 1),
    "a length that lies": (b"\x82\xa4type\xa5Files\xa5files\xdd\xff\xff\xff\xff", 1),
    "too many in a batch": (_files(BATCH_DESCRIPTORS + 1), BATCH_DESCRIPTORS + 1),
    "too long": (b"\x00" * (MAX_PACKET_BYTES + 10), 1),
    "a daemon's packet": (encode_packet(Taken(1, 1)), 1),
}


@pytest.mark.parametrize("kind", PACKETS)
def test_a_packet_that_lies_ends_its_connection_and_leaks_nothing(
    daemon: DaemonProcess, model: list[Path], kind: str
) -> None:
    data, descriptors = PACKETS[kind]
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            answer = peer.hand_bytes(data, [fd] * descriptors)
            assert answer is None or isinstance(answer, Refused)
            assert _ended(peer)
    finally:
        os.close(fd)
    eventually(lambda: str(model[0]) not in open_files_of(daemon.pid))


@pytest.mark.parametrize("transfer", [0, -1])
def test_a_transfer_of_no_number_is_refused(
    daemon: DaemonProcess, model: list[Path], transfer: int
) -> None:
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            answer = peer.hand_bytes(_files(1, transfer=transfer), [fd])
            assert answer is None or isinstance(answer, Refused)
    finally:
        os.close(fd)


def test_transfers_and_their_files_are_bounded(daemon: DaemonProcess, model: list[Path]) -> None:
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as peer:
            for transfer in range(1, MAX_TRANSFERS + 1):
                assert isinstance(peer.hand(["m"], [fd], transfer), Taken)
            assert isinstance(peer.hand(["m"], [fd], MAX_TRANSFERS + 1), Refused)
        with DescriptorPeer(daemon.socket) as peer:
            for _ in range(MAX_FILES // BATCH_DESCRIPTORS):
                answer = peer.hand(["m"] * BATCH_DESCRIPTORS, [fd] * BATCH_DESCRIPTORS)
                if isinstance(answer, Refused):
                    break  # its limit of open files is lower than that of files
            else:
                answer = peer.hand(["m"] * BATCH_DESCRIPTORS, [fd] * BATCH_DESCRIPTORS)
            assert isinstance(answer, Refused)
            assert answer.code == "refused"
    finally:
        os.close(fd)
    eventually(lambda: str(model[0]) not in open_files_of(daemon.pid))


def test_names_forge_no_log_line(daemon: DaemonProcess, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    forged = "a\nCRITICAL streamerd.main forged\r\x1b[2J"
    try:
        with DescriptorPeer(daemon.socket) as peer:
            assert isinstance(peer.hand([forged], [fd]), Taken)
            answer = peer.open(1)
            assert isinstance(answer, Failed)
            assert "\n" not in answer.message
            assert "\x1b" not in answer.message
    finally:
        os.close(fd)
    assert "\nCRITICAL streamerd.main forged" not in daemon.log


def test_a_load_of_somebody_elses_transfer_is_refused(
    daemon: DaemonProcess, model: list[Path]
) -> None:
    """Transfers belong to their connection: a number says nothing in another."""
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as owner, DescriptorPeer(daemon.socket) as other:
            owner.hand(["m"], [fd], transfer=7)
            answer = other.open(7)
            assert isinstance(answer, Failed)
            assert answer.code == "protocol-mismatch"
    finally:
        os.close(fd)


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
    """As those of protocol 3 were: their first message has no token."""
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
            assert connection.recv(1) == b""  # it sent nothing, and left


def test_a_client_that_never_reads_its_slabs_holds_nobody_up(
    daemon: DaemonProcess, model: list[Path]
) -> None:
    """It opens and opens, and takes nothing; others are served meanwhile."""
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
    """A limit of 256: a peer hands over more than that, and goes; then others are served."""
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
    """Opened for reading and writing, it has no end and no bytes; a good load goes on beside it."""
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
