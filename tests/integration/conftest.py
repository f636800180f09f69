"""Fixtures of the client's tests that run against the scripted daemon."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.client import Client, daemon_client
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon, scripted_daemon


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path that is short enough for a socket, however long the test's name is."""
    with tempfile.TemporaryDirectory(prefix="strd-") as directory:
        yield Path(directory) / "control.sock"


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def daemon(socket_path: Path, script: Script) -> Iterator[ScriptedDaemon]:
    with scripted_daemon(socket_path, script) as running:
        yield running


@pytest.fixture
def client(daemon: ScriptedDaemon) -> Iterator[Client]:
    with daemon_client(daemon.socket_path, label="test", reconnect_s=0.2) as opened:
        yield opened
