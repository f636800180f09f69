"""The messages that systemd gets from a real daemon, over a real notify socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess, Daemons
from tests.support.raw_client import RawClient


class Manager:
    """A stand-in for systemd."""

    def __init__(self, address: Path) -> None:
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.bind(str(address))
        self.channel.settimeout(20)

    def hears(self, wanted: str) -> list[str]:
        """Listen until a message that contains this text has come; returns its lines."""
        while True:
            message = self.channel.recv(4096).decode()
            if wanted in message:
                return message.split("\n")


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    heard = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    yield heard
    heard.channel.close()


def test_a_life_in_messages(manager: Manager, daemon_maker: Daemons, tmp_path: Path) -> None:
    daemon = daemon_maker.start()
    idle = "0 B of 1.00 MiB (0%) in memory; loads: 0 running, 0 waiting"
    assert manager.hears("READY=1") == ["READY=1", f"STATUS={idle}"]
    write_model(tmp_path / "m", shards=1, blocks=4)
    with RawClient(daemon.socket) as client:
        client.open(str(tmp_path / "m"), hold=True).await_grants(4)
        status = manager.hears("256 KiB of 1.00 MiB (25%)")
        assert status == ["STATUS=256 KiB of 1.00 MiB (25%) in memory; loads: 1 running, 0 waiting"]
    daemon.signal(signal.SIGHUP)
    _, clock = manager.hears("RELOADING=1")
    assert clock.removeprefix("MONOTONIC_USEC=").isdigit()
    assert manager.hears("READY=1") == ["READY=1"]
    daemon.stop()
    assert manager.hears("STOPPING=1")[0] == "STOPPING=1"


def test_a_stopped_loop_gives_no_sign_of_life(
    manager: Manager, daemon_maker: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon: DaemonProcess = daemon_maker.start()
    for _ in range(3):
        manager.hears("WATCHDOG=1")
    os.kill(daemon.pid, signal.SIGSTOP)
    manager.channel.settimeout(0.5)
    with pytest.raises(TimeoutError):
        # This call reads away the messages that the daemon sent before it was stopped.
        manager.hears("what is never said")
    os.kill(daemon.pid, signal.SIGCONT)
    manager.channel.settimeout(20)
    manager.hears("WATCHDOG=1")
