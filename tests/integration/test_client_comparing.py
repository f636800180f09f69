"""A load succeeds only once resident bytes are known to be the bytes that its files hold now."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from streamer_client.checkpoint import Checkpoint
from streamer_client.client import Client
from streamer_client.contract.errors import SourceChanged
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon
from tests.support.waiting import eventually

SHAPE = (64, 9)


@pytest.fixture
def script() -> Script:
    return Script(block_bytes=4096, compared=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    stored = {f"w{part}": random_tensor("F32", SHAPE, part) for part in range(4)}
    write_shard(tmp_path / "m.safetensors", stored)
    return tmp_path


class Reading:
    """A load read in a thread: the bytes that it has so far, and whether it is done."""

    def __init__(self, checkpoint: Checkpoint, read: Callable[[Reading, Checkpoint], None]) -> None:
        self.found: list[str] = []
        self.error: BaseException | None = None
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(checkpoint, read))
        self._thread.start()

    def _run(self, checkpoint: Checkpoint, read: Callable[[Reading, Checkpoint], None]) -> None:
        try:
            read(self, checkpoint)
        except BaseException as error:  # noqa: BLE001  raised again in `result`
            self.error = error
        self.done.set()

    def result(self) -> list[str]:
        self._thread.join(30)
        assert self.done.is_set()
        if self.error is not None:
            raise self.error
        return self.found


def views(reading: Reading, checkpoint: Checkpoint) -> None:
    for name, _ in checkpoint.tensors():
        reading.found.append(name)


def copies(reading: Reading, checkpoint: Checkpoint) -> None:
    targets = {f"w{part}": torch.zeros(SHAPE) for part in range(4)}
    checkpoint.load_into(targets, on_tensor=lambda name, _: reading.found.append(name))


ways = pytest.mark.parametrize("read", [views, copies])


@ways
def test_everything_is_copied_meanwhile_and_the_end_waits(
    daemon: ScriptedDaemon,
    client: Client,
    source: Path,
    read: Callable[[Reading, Checkpoint], None],
) -> None:
    with client.open(source) as checkpoint:
        reading = Reading(checkpoint, read)
        eventually(lambda: len(reading.found) == 4)
        client.admin.status()
        assert not reading.done.is_set()
        daemon.compare()
        assert len(reading.result()) == 4


@ways
def test_a_difference_is_told_at_the_end(
    daemon: ScriptedDaemon,
    client: Client,
    source: Path,
    read: Callable[[Reading, Checkpoint], None],
) -> None:
    with client.open(source) as checkpoint:
        reading = Reading(checkpoint, read)
        eventually(lambda: len(reading.found) == 4)
        daemon.compare(SourceChanged("m.safetensors: another file now"))
        with pytest.raises(SourceChanged, match="another file now"):
            reading.result()


@pytest.mark.parametrize("script", [Script(block_bytes=4096)])
def test_pages_doubted_after_the_load_began_are_compared(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    """A file is touched while the load runs."""
    with client.open(source) as checkpoint:
        daemon.doubt()
        client.admin.status()
        reading = Reading(checkpoint, views)
        eventually(lambda: len(reading.found) == 4)
        client.admin.status()
        assert not reading.done.is_set()
        daemon.compare()
        assert len(reading.result()) == 4


def test_closing_ends_the_wait(daemon: ScriptedDaemon, client: Client, source: Path) -> None:
    checkpoint = client.open(source)
    reading = Reading(checkpoint, views)
    eventually(lambda: len(reading.found) == 4)
    checkpoint.close()
    assert reading.done.wait(10)
