"""Ten thousand hostile messages to a real daemon, and single messages that once ended it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from streamer_client.contract.codec import encode
from streamer_client.contract.handover import Files, encode_packet
from streamer_client.contract.messages import GetConfig
from tests.hostile.daemon_fuzz import run
from tests.hostile.leftovers import status_of
from tests.hostile.peer import Ended, Peer
from tests.support.daemon import DaemonProcess

MESSAGES = 10_000


def test_hostile_messages_and_packets() -> None:
    outcome = run(seed=1, count=MESSAGES)
    assert outcome.is_right, str(outcome)
    assert outcome.sent["mutated"] > MESSAGES // 10, str(outcome)
    assert outcome.sent["packets"], str(outcome)


@pytest.fixture
def peer(streamerd: DaemonProcess) -> Iterator[Peer]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Peer(context, streamerd.socket) as made:
        yield made
    context.term()


def test_a_batch_of_no_files_whose_client_leaves_at_once(
    streamerd: DaemonProcess, peer: Peer
) -> None:
    """A worker examined no file, for a transfer whose client had left: this once ended
    the daemon.
    """
    peer.pack(encode_packet(Files(1, ())))
    peer.close()
    assert status_of(streamerd)["pid"] == streamerd.pid


@pytest.mark.parametrize(
    "body",
    [
        bytes.fromhex("81a474797065a1ff"),
        b"\x91" * 200_000 + b"\xc0",
        b"\x81\xa5label\xa2\xff\xfe",
        b"",
    ],
    ids=["no UTF-8 as a kind", "nested before the tag", "no UTF-8 as a label", "nothing"],
)
@pytest.mark.parametrize("token", [None, b"", bytes(16)], ids=["own token", "none", "another's"])
def test_bytes_that_ended_it(
    streamerd: DaemonProcess, peer: Peer, body: bytes, token: bytes | None
) -> None:
    peer.say(body, token)
    peer.say(encode(GetConfig(1)), token)
    assert status_of(streamerd)["pid"] == streamerd.pid


def test_a_peer_that_asks_on_and_never_reads(streamerd: DaemonProcess) -> None:
    """The daemon disconnects the peer, and drops the messages that it did not read."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    before_bytes = _resident_bytes(streamerd.pid)
    with Peer(context, streamerd.socket) as peer:
        peer.greet()
        with pytest.raises(Ended):
            _ask_on(peer)
    context.term()
    assert _resident_bytes(streamerd.pid) - before_bytes < 64 << 20
    assert status_of(streamerd)["pid"] == streamerd.pid


def _ask_on(peer: Peer) -> None:
    for number in range(1_000_000):
        peer.say(encode(GetConfig(number)))


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
