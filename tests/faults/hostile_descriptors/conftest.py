"""A daemon that gets hostile descriptors and packets, and must go on serving its good client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess, daemons
from tests.support.descriptor_peer import DescriptorPeer
from tests.support.waiting import eventually
from tests.support.worlds import (
    leased_bytes,
    status_of,
)


@pytest.fixture
def model(tmp_path: Path) -> list[Path]:
    return write_model(tmp_path / "m", shards=1, blocks=2)


@pytest.fixture(scope="package")
def running() -> Iterator[DaemonProcess]:
    """One daemon for all of these tests."""
    with daemons() as made:
        yield made.start()


@pytest.fixture
def daemon(running: DaemonProcess, model: list[Path]) -> Iterator[DaemonProcess]:
    """That daemon; the fixture checks after the test that it serves a good client as before."""
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
