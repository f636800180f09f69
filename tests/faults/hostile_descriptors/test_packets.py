"""Packets that contradict their descriptors, and transfers without bounds: the sender is refused or
disconnected.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    MAX_PACKET_BYTES,
    Files,
    Got,
    HandedFile,
    Refused,
    Taken,
    encode_packet,
)
from streamer_client.contract.messages import (
    Failed,
)
from streamerd.answering.files.handovers import MAX_FILES, MAX_TRANSFERS
from tests.support.daemon import DaemonProcess
from tests.support.descriptor_peer import DescriptorPeer
from tests.support.waiting import eventually
from tests.support.worlds import (
    open_files_of,
)


def _ended(peer: DescriptorPeer) -> bool:
    """Whether the daemon ends the connection, perhaps after a few last words."""
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
                    break  # the daemon's limit on open files is below MAX_FILES
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
    """A transfer belongs to its connection: in another connection, its number names nothing."""
    fd = os.open(model[0], os.O_RDONLY)
    try:
        with DescriptorPeer(daemon.socket) as owner, DescriptorPeer(daemon.socket) as other:
            owner.hand(["m"], [fd], transfer=7)
            answer = other.open(7)
            assert isinstance(answer, Failed)
            assert answer.code == "protocol-mismatch"
    finally:
        os.close(fd)
