"""Adopted objects: the daemon asks the store before any client gets them, and reads only those that
changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.contract.errors import SourceForbidden
from streamer_client.contract.messages import Failed
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.guarded_store import SECRET, TOKEN, GuardedStore, guarded_store
from tests.support.raw_client import RawClient
from tests.support.raw_load import RawLoad

SOURCE = "s3://models/llama"


@pytest.fixture
def store() -> Iterator[GuardedStore]:
    with guarded_store() as running:
        yield running


@pytest.fixture
def files(store: GuardedStore, tmp_path: Path) -> list[bytes]:
    """A checkpoint of two shards of five blocks in the store."""
    paths = write_model(tmp_path / "llama", shards=2, blocks=5)
    store.put_model(tmp_path / "llama", SOURCE)
    return [path.read_bytes() for path in paths]


@pytest.fixture
def restarted(daemon_maker: Daemons, store: GuardedStore, files: list[bytes]) -> DaemonProcess:
    """A daemon that adopted the checkpoint."""
    daemon = daemon_maker.start(f"--memory-limit={64 * BLOCK}")
    with RawClient(daemon.socket) as client:
        client.open(SOURCE, hold=True, environment=store.environ()).await_grants(10)
    daemon.stop()
    for sidecar in daemon.sidecars.iterdir():
        content = sidecar.read_bytes()
        assert SECRET.encode() not in content
        assert TOKEN.encode() not in content
    store.seen.clear()
    return daemon.start()


def test_no_byte_crosses_the_network_again(
    restarted: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    assert store.seen == []  # the daemon cannot ask the store without a client's credentials
    with RawClient(restarted.socket) as client:
        assert client.open(SOURCE, environment=store.environ()).read_all() == files
    assert store.reads() == {}


def test_a_changed_object_is_another_one(
    restarted: DaemonProcess, store: GuardedStore, files: list[bytes]
) -> None:
    store.put("models", "llama/llama-0.safetensors", files[1])
    with RawClient(restarted.socket) as client:
        found = client.open(SOURCE, environment=store.environ()).read_all()
    assert found == [files[1], files[1]]
    assert len(store.reads()) == 5


def test_who_may_not_read_it_does_not_get_it(restarted: DaemonProcess, store: GuardedStore) -> None:
    store.denied.add("AKIABAD")
    with RawClient(restarted.socket) as client:
        RawLoad(client, SOURCE, environment=store.environ(key="AKIABAD"))
        assert client.expect(Failed).code == SourceForbidden.code
