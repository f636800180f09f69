"""Modes: a running daemon, one started once for all who ask, or none. The daemon is scripted."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client import own_daemon
from streamer_client.client import Client
from streamer_client.contract.errors import ConfigError, DaemonUnavailable, SourceForbidden
from streamer_client.launch import open_client
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.scripted_daemon import Script, ScriptedDaemon
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]

GOOD = """
import os, sys
sys.path[:0] = {path!r}
from tests.support.scripted_daemon import scripted_daemon
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert sys.argv[1] == "--ephemeral"
with open(arguments["--socket"] + ".starts", "a") as file:
    file.write("x")
with scripted_daemon(arguments["--socket"]) as daemon:
    os.write(int(arguments["--ready-fd"]), b"READY\\n")
    os.close(int(arguments["--ready-fd"]))
    while not os.path.exists(arguments["--socket"] + ".stop"):
        daemon._stop.wait(0.01)
open(arguments["--socket"] + ".ended", "w").close()
"""

BAD = "import sys; sys.exit('there is no room')"


def command(program: str) -> list[str]:
    path = [str(ROOT), *sys.path]
    return [sys.executable, "-c", program.replace("{path!r}", repr(path))]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_shard(tmp_path / "m.safetensors", {"w": random_tensor("F32", (10, 40))})
    return tmp_path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STREAMERD_MODE", raising=False)
    monkeypatch.delenv("STREAMERD_SOCKET", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


def mode_of(client: Client, source: Path) -> str:
    with client.open(source) as checkpoint:
        assert [name for name, _ in checkpoint.tensors()] == ["w"]
        return checkpoint.stats.mode


def test_direct(source: Path) -> None:
    with open_client("direct") as client:
        assert mode_of(client, source) == "direct"
        with pytest.raises(DaemonUnavailable, match="reads without a daemon"):
            client.admin.status()


def test_mode_comes_from_the_environment(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMERD_MODE", "direct")
    with open_client() as client:
        assert mode_of(client, source) == "direct"


def test_required_needs_a_daemon(socket_path: Path) -> None:
    with pytest.raises(DaemonUnavailable, match=str(socket_path)):
        open_client("required", str(socket_path))


def test_unknown_mode() -> None:
    with pytest.raises(ConfigError, match="'turbo'; it is one of auto, required, direct"):
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


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> Iterator[None]:
    """Daemons that this process starts are ended."""
    monkeypatch.setattr(own_daemon, "_daemon_command", command(GOOD))
    yield
    Path(f"{socket_path}.stop").touch()
    eventually(Path(f"{socket_path}.ended").exists, what="the started daemon's end")


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
    """vLLM ends all of its own, and the daemon is there for the next start."""
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


def test_the_directory_is_made_private(tmp_path: Path) -> None:
    directory = tmp_path / "run" / "streamerd"
    own_daemon.private_directory(str(directory))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(DaemonUnavailable, match="written to by others"):
        own_daemon.private_directory(str(shared))
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(DaemonUnavailable, match="not a directory of user"):
        own_daemon.private_directory(str(link))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_foreign_directory_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    os.chown(foreign, 12345, 12345)
    with pytest.raises(DaemonUnavailable, match="somebody else made it"):
        own_daemon.private_directory(str(foreign))
