"""Inputs that were found to end, inflate or stop a daemon or its client, each tried on a real one.

Cases of descriptors are in `tests/faults/hostile_descriptors/`, cases of starting a daemon in
`tests/integration/client_launch/`, and cases of bytes and crowds in this folder's other files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import zmq

from streamer_client.client import Client, daemon_client
from streamer_client.contract.codec import decode_daemon, encode
from streamer_client.contract.errors import (
    ConfigError,
    CorruptCheckpoint,
    SourceChanged,
    SourceError,
    StreamerError,
)
from streamer_client.contract.limits import MAX_HEADER_BYTES, MAX_LABEL_CHARACTERS
from streamer_client.contract.messages import Failed, GetStatus, Message
from streamer_client.storage import local_files
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage
from streamerd.cli.main import main as streamerctl
from tests.hostile.kernel_accounts import peak_bytes, processor_s
from tests.hostile.leftovers import status_of
from tests.hostile.peer import Peer
from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess
from tests.support.raw_client import RawClient
from tests.support.safetensors_files import built, field
from tests.support.waiting import eventually

LITTLE_BYTES = 32 << 20
ANSWER_MS = 500
LITTLE_S = 5.0
"""Seconds of processor time; before the mends, these inputs took 26 s and more."""


@pytest.fixture
def client(streamerd: DaemonProcess) -> Iterator[Client]:
    with daemon_client(streamerd.socket, reconnect_s=0) as opened:
        yield opened


@pytest.fixture
def sparse() -> Iterator[Path]:
    """A folder where files may claim any size."""
    folder = Path(tempfile.mkdtemp(prefix="sparse-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def refusal(client: Client, source: Path) -> StreamerError:
    with pytest.raises(StreamerError) as caught:
        client.open(source).close()
    return caught.value


# --- sizes and headers --------------------------------------------------------------------------


@pytest.mark.parametrize("size_bytes", [4 << 60, 256 << 40], ids=["4 EiB", "256 TiB"])
def test_a_sparse_file(
    streamerd: DaemonProcess, client: Client, sparse: Path, size_bytes: int
) -> None:
    (sparse / "m.safetensors").touch()
    os.truncate(sparse / "m.safetensors", size_bytes)
    before_bytes, before_s = peak_bytes(streamerd.pid), processor_s(streamerd.pid)
    assert isinstance(refusal(client, sparse), ConfigError | SourceError)
    assert peak_bytes(streamerd.pid) - before_bytes < LITTLE_BYTES
    assert processor_s(streamerd.pid) - before_s < LITTLE_S
    assert status_of(streamerd)["memory"]["used_bytes"] == 0


def test_a_header_with_ten_thousand_dimensions(client: Client, tmp_path: Path) -> None:
    file = built({"w": field("U8", [2**64 - 1] * 10_000, 0, 1)}, 1)
    (tmp_path / "m.safetensors").write_bytes(file)
    before_s = processor_s(os.getpid())
    with client.open(tmp_path) as checkpoint, pytest.raises(CorruptCheckpoint):
        list(checkpoint.tensors())
    assert processor_s(os.getpid()) - before_s < LITTLE_S


def test_a_header_of_nothing_but_length(client: Client, sparse: Path) -> None:
    """The header has a fifth of the most bytes that a header may have, and is empty."""
    path, header_bytes = sparse / "m.safetensors", MAX_HEADER_BYTES // 5
    path.write_bytes(header_bytes.to_bytes(8, "little"))
    os.truncate(path, 8 + header_bytes)
    with client.open(sparse, hold=False, memory_limit=0) as checkpoint:
        before_bytes = peak_bytes(os.getpid())
        with pytest.raises(CorruptCheckpoint):
            list(checkpoint.tensors())
        assert peak_bytes(os.getpid()) - before_bytes < 2 * header_bytes


# --- names --------------------------------------------------------------------------------------


def test_names_with_line_ends(
    streamerd: DaemonProcess, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "m\nERROR streamerd.main forged\x1b[2J"
    (file,) = write_model(folder, shards=1, blocks=40)
    with client.open(folder, hold=False, memory_limit=0) as checkpoint:
        tensors = checkpoint.tensors()
        next(tensors)
        os.truncate(file, 10)
        with pytest.raises(SourceChanged):
            list(tensors)
    assert streamerctl(["--socket", streamerd.socket, "status"]) == 0
    for told in (capsys.readouterr().out, streamerd.log):
        assert r"m\nERROR streamerd.main forged" in told
        assert "\nERROR streamerd.main forged" not in told
        assert "\x1b[2J" not in told


def test_a_long_label_is_cut(streamerd: DaemonProcess, tmp_path: Path) -> None:
    write_model(tmp_path / "m", shards=1, blocks=2)
    with RawClient(streamerd.socket, label="l" * 1_000_000) as client:
        client.open(str(tmp_path / "m"), hold=True).await_grants(2)
        (row,) = streamerd.shards().values()
    (lease,) = row["leases"]
    assert len(lease["label"]) <= MAX_LABEL_CHARACTERS


# --- who says it --------------------------------------------------------------------------------


@pytest.mark.parametrize("presented", ["the old token", "zeros", "none"])
def test_a_routing_id_of_somebody_who_is_gone(streamerd: DaemonProcess, presented: str) -> None:
    """A routing id gives no right. The token does, and it ended with its connection."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with Peer(context, streamerd.socket, b"taken over") as first:
        first.greet()
        eventually(first.hear)
        tokens = {"the old token": first.token, "zeros": bytes(len(first.token)), "none": b""}

    def answer() -> Message | None:
        # As long as libzmq has the first peer's connection, it gives that peer's id to nobody else.
        with context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.routing_id = b"taken over"
            dealer.connect(f"ipc://{streamerd.socket}")
            dealer.send(tokens[presented] + encode(GetStatus(1)))
            return decode_daemon(dealer.recv()) if dealer.poll(ANSWER_MS) else None

    failed = eventually(answer)
    assert isinstance(failed, Failed)
    assert failed.code == "protocol-mismatch"
    context.term()


# --- files that change under one's hands --------------------------------------------------------


def test_a_fifo_swapped_in_between_look_and_open(
    streamerd: DaemonProcess, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = write_model(tmp_path / "m", shards=1, blocks=2)

    class Swapping(LocalStorage):
        def list_shards(
            self, source: str, pattern: str | None, files: Sequence[str] | None
        ) -> tuple[StoredShard, ...]:
            listed = super().list_shards(source, pattern, files)
            file.unlink()
            os.mkfifo(file)
            return listed

    monkeypatch.setattr(local_files, "LocalStorage", Swapping)
    error = refusal(client, tmp_path / "m")
    assert isinstance(error, SourceError)
    assert str(file) in str(error)
    monkeypatch.undo()
    (good,) = write_model(tmp_path / "good", shards=1, blocks=2)
    with client.open(good.parent) as checkpoint:
        assert list(checkpoint.tensors())
    assert status_of(streamerd)["totals"]["lost_threads"] == 0
