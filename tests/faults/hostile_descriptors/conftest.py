"""A daemon that somebody hostile speaks to, and the good client that it must go on serving."""

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
