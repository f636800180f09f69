"""Fixtures: a source, an environment without settings, and an end for every started daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.connecting import own_daemon
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.started_daemon import GOOD, command
from tests.support.waiting import eventually


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_shard(tmp_path / "m.safetensors", {"w": random_tensor("F32", (10, 40))})
    return tmp_path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAMERD_MODE", raising=False)
    monkeypatch.delenv("STREAMERD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> Iterator[None]:
    """The list of daemons that this process starts; the fixture ends them."""
    monkeypatch.setattr(own_daemon, "_daemon_command", command(GOOD))
    yield
    Path(f"{socket_path}.stop").touch()
    eventually(Path(f"{socket_path}.ended").exists, what="the started daemon's end")
