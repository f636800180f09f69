"""The modes of a client: use a running daemon, start one for all who ask, or do without.

The daemon here is scripted.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import streamer_client
from streamer_client.connecting import finding, own_daemon
from streamer_client.contract.errors import ConfigError, DaemonUnavailable, SourceForbidden
from streamer_client.launch import open_client
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon
from tests.support.started_daemon import BAD, command, mode_of


def test_direct(source: Path) -> None:
    with open_client("direct") as client:
        assert mode_of(client, source) == "direct"
        with pytest.raises(DaemonUnavailable, match="reads without a daemon"):
            client.admin.status()


def test_mode_comes_from_the_environment(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMERD_MODE", "direct")
    with open_client() as client:
        assert mode_of(client, source) == "direct"


def test_off_reads_directly_and_starts_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(socket_path: str) -> int:
        raise AssertionError(f"a daemon was started at {socket_path}")

    monkeypatch.setattr(finding, "start_daemon", started)
    monkeypatch.setenv("STREAMERD_MODE", "off")
    with streamer_client.connect() as client:
        assert mode_of(client, source) == "direct"
        assert client.socket is None


def test_required_needs_a_daemon(socket_path: Path) -> None:
    with pytest.raises(DaemonUnavailable, match=str(socket_path)):
        open_client("required", str(socket_path))


def test_unknown_mode() -> None:
    with pytest.raises(ConfigError, match="'turbo'; it must be one of auto, required, direct, off"):
        open_client("turbo")


def test_auto_uses_a_running_daemon(daemon: ScriptedDaemon, source: Path) -> None:
    with open_client("auto", daemon.socket_path) as client:
        assert mode_of(client, source) == "daemon"


def test_auto_reads_itself_what_the_daemon_may_not(
    daemon: ScriptedDaemon, script: Script, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script.refuse_open = SourceForbidden("not for user streamerd")
    with open_client("auto", daemon.socket_path) as client:
        assert mode_of(client, source) == "direct"
    assert "not for user streamerd" in caplog.text


@pytest.mark.usefixtures("started")
def test_auto_starts_one_daemon_for_all(socket_path: Path, source: Path) -> None:
    modes: list[str] = []
    gate = threading.Barrier(3)

    def rank() -> None:
        gate.wait()
        with open_client("auto", str(socket_path)) as client:
            gate.wait()
            modes.append(mode_of(client, source))

    ranks = [threading.Thread(target=rank) for _ in range(3)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join(60)
    assert modes == ["daemon"] * 3
    assert Path(f"{socket_path}.starts").read_text() == "x"


@pytest.mark.usefixtures("started")
def test_a_daemon_is_no_descendant_of_who_starts_it(socket_path: Path) -> None:
    """vLLM ends all of its own processes, and the daemon must live on for the next start."""
    pid = own_daemon.start_daemon(str(socket_path))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    parent, session = int(fields[1]), int(fields[3])
    assert parent != os.getpid()
    assert session != os.getsid(0)


def test_auto_goes_direct_when_no_daemon_starts(
    socket_path: Path,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(own_daemon, "_daemon_command", command(BAD))
    with open_client("auto", str(socket_path)) as client:
        assert mode_of(client, source) == "direct"
    assert "there is no room" in caplog.text
