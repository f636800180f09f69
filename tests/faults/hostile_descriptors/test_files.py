"""Descriptors of every kind: one counts only if it was opened for reading and names a regular file.

All others are refused with a typed error, and a good client is served as before.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer_client.contract.handover import (
    Taken,
)
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import (
    Failed,
    Opened,
    ShardFailed,
    Want,
)
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess
from tests.support.descriptor_peer import DescriptorPeer
from tests.support.visitor import Visitor, digests_of
from tests.support.waiting import eventually
from tests.support.worlds import (
    open_files_of,
    status_of,
)

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
    """/proc/self/mem is a regular file without a size: a reader never gets what it asks for."""
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
    """Both descriptors of a pair must be of one file.

    Otherwise the bytes that are read past the page cache would be another file's.
    """
    (other,) = write_model(tmp_path / "other", shards=1, blocks=2, seed=9)
    directly = os.O_DIRECT if _has_direct(other) else 0
    fds = [os.open(model[0], os.O_RDONLY), os.open(other, os.O_RDONLY | directly)]
    try:
        with DescriptorPeer(daemon.socket) as peer:
            assert isinstance(peer.hand(["m"], fds), Taken)
            assert isinstance(peer.open(1), Opened)
            eventually(lambda: _all_resident(daemon, "m", 2 * BLOCK))
            with Visitor() as client:
                found = client.load(daemon.socket, model[0].parent)
    finally:
        for fd in fds:
            os.close(fd)
    assert found["resident_bytes"] == 2 * BLOCK
    assert found["digests"] == digests_of(model)


def _all_resident(daemon: DaemonProcess, uri: str, size_bytes: int) -> bool:
    """Whether the one shard of that name is in memory; if not, an error shows the status."""
    status = status_of(daemon.socket)
    shards = [row for source in status["sources"] for row in source["shards"]]
    found = [row["resident_bytes"] for row in shards if row["uri"] == uri]
    assert found == [size_bytes], f"{found}: {status['memory']} {shards} {status['waiting']}"
    return True


def _has_direct(file: Path) -> bool:
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


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
    """Work in proportion to a claimed size begins only after the limit was checked."""
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
    """Bytes that the sender writes to its file meanwhile are never served as another file's."""
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
