"""Modes: a running daemon, one started once for all who ask, or none. The daemon is scripted."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamer_client
from streamer_client.client import Client
from streamer_client.connect import finding, own_daemon
from streamer_client.contract.errors import ConfigError, DaemonUnavailable, SourceForbidden
from streamer_client.launch import open_client
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.scripted_daemon import Script, ScriptedDaemon
from tests.support.unprivileged import as_user
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


# --- places ---------------------------------------------------------------------------------------


def test_a_folder_below_one_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(DaemonUnavailable, match=f"everybody may write to the folder {shared}"):
        own_daemon.private_directory(str(shared / "a" / "b"))
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("what", ["link", "fifo", "hard link"])
def test_a_planted_launch_lock_is_refused(tmp_path: Path, what: str) -> None:
    lock, theirs = tmp_path / own_daemon.LOCK_NAME, tmp_path / "theirs"
    theirs.write_text("kept")
    if what == "link":
        lock.symlink_to(theirs)
    elif what == "fifo":
        os.mkfifo(lock)
    else:
        lock.hardlink_to(theirs)
    with (
        pytest.raises(own_daemon.UnusablePlace, match=rf"{lock} cannot be used: "),
        own_daemon.launch_lock(str(tmp_path)),
    ):
        pass
    assert theirs.read_text() == "kept"


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, socket_path: Path) -> tuple[Path, Path]:
    """Two places of this user's own; the started daemon of `started` would be at the second."""
    first = socket_path.parent / "first" / "control.sock"
    monkeypatch.setattr(finding, "socket_candidates", lambda *_: (str(first), str(socket_path)))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(socket_path.parent / "nothing"))
    return first, socket_path


def spoil(first: Path, how: str) -> None:
    match how:
        case "file":
            first.parent.touch()
        case "wide":
            first.parent.mkdir()
            first.parent.chmod(0o777)
        case "link":
            first.parent.symlink_to(first.parent.with_name("elsewhere"))
        case "lock":
            first.parent.mkdir(mode=0o700)
            (first.parent / own_daemon.LOCK_NAME).symlink_to("/dev/null")
        case _:
            raise AssertionError(how)


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("how", ["file", "wide", "link", "lock"])
def test_if_one_place_cannot_be_used_the_next_is_tried(
    places: tuple[Path, Path], source: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = places
    spoil(first, how)
    with open_client("auto") as client:
        assert client.socket == str(second)
        assert mode_of(client, source) == "daemon"
    assert f"event=place_not_used socket={first}" in caplog.text


def test_with_no_place_at_all_it_reads_directly(
    places: tuple[Path, Path],
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, _ = places
    long = str(first.with_name("s" * 100))
    monkeypatch.setattr(finding, "socket_candidates", lambda *_: (long,))
    with open_client("auto") as client:
        assert mode_of(client, source) == "direct"
    assert "has more than 104 bytes" in caplog.text


ME, STRANGER = 61_234, 61_235


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")
def test_another_user_who_took_the_place_first_and_listens_gets_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a client would send is its credentials, and what it would load is theirs."""
    monkeypatch.setattr(own_daemon, "_daemon_command", command(BAD))
    taken = Path(f"/tmp/streamerd-{ME}")
    with (
        tempfile.TemporaryDirectory(prefix="strd-") as directory,
        socket.socket(socket.AF_UNIX) as stranger,
    ):
        home = Path(directory) / "home"
        home.mkdir()
        Path(directory).chmod(0o755)
        os.chown(home, ME, ME)
        write_shard(home / "m.safetensors", {"w": random_tensor("F32", (10, 40))})
        taken.mkdir()
        try:
            stranger.bind(str(taken / "control.sock"))
            stranger.listen()
            stranger.setblocking(False)
            (taken / "control.sock").chmod(0o777)
            os.chown(taken, STRANGER, STRANGER)
            monkeypatch.delenv("XDG_RUNTIME_DIR")
            monkeypatch.setenv("HOME", str(home))
            told = as_user(ME, lambda: _way_of(home))
            with pytest.raises(BlockingIOError):
                stranger.accept()
        finally:
            shutil.rmtree(taken)
        mode, _, warnings = told.partition(" ")
        assert mode == "direct"  # for the daemon at the last place does not come up: no such user
        assert f"socket={taken}/control.sock" in warnings
        assert f"{taken} belongs to user {STRANGER}" in warnings
        assert (home / ".cache" / "streamerd" / "daemon.log").exists()


def _way_of(source: Path) -> str:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logging.getLogger("streamer_client").addHandler(Lines())
    with open_client("auto") as client:
        return f"{mode_of(client, source)} {lines}"


# --- what the daemon has of who starts it ---------------------------------------------------------

FIRST_RANK = """
import os, signal, sys
from streamer_client.connect import own_daemon
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
own_daemon.private_directory(os.path.dirname(sys.argv[1]))
print(own_daemon.start_daemon(sys.argv[1]))
"""


@pytest.fixture
def first_rank(tmp_path: Path, socket_path: Path) -> Iterator[int]:
    """The pid of a real daemon whose starter was held short in every way."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("queue.py", "msgspec.py", "streamerd.py", "sitecustomize.py"):
        (folder / name).write_text("raise SystemExit('a module of the working folder')")
    limits = "ulimit -f 2000; ulimit -Sn 200; ulimit -c unlimited; umask 0; "
    where = os.pathsep.join(path for path in sys.path if path and "/lib/python" not in path)
    done = subprocess.run(
        ["sh", "-c", f'{limits} exec "$@"', "sh", "taskset", "-c", str(min(CPUS)), "nice", "-n5",
         sys.executable, "-P", "-c", FIRST_RANK, str(socket_path)],
        check=True, stdout=subprocess.PIPE, text=True, cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": where,
            "NOTIFY_SOCKET": "@nobody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "STREAMERD_MEMORY_LIMIT": "64MiB",
            "STREAMERD_WORKERS": "1",
        },
    )  # fmt: skip
    pid = int(done.stdout)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the daemon's end")


CPUS = os.sched_getaffinity(0)


def test_the_daemon_takes_nothing_from_the_first_rank_but_its_user(
    first_rank: int, socket_path: Path
) -> None:
    proc = Path(f"/proc/{first_rank}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    assert os.sched_getaffinity(first_rank) == CPUS
    assert status["Umask"] == "0077"
    assert int(status["SigBlk"], 16) == 0
    ignored = {n for n in range(1, 65) if int(status["SigIgn"], 16) >> (n - 1) & 1}
    settable = {int(one) for one in signal.valid_signals()}  # the C library keeps two to itself
    assert ignored & settable <= {signal.SIGPIPE, signal.SIGXFSZ}
    assert os.readlink(proc / "cwd") == "/"
    assert os.readlink(proc / "fd" / "0") == "/dev/null"
    text = (proc / "limits").read_text()
    limits = {line[:25].strip(): line[25:].split() for line in text.splitlines()}
    for name in ("Max file size", "Max open files"):
        soft, hard = limits[name][:2]
        assert soft == hard
    assert limits["Max core file size"][0] == "0"
    if os.getuid() == 0:  # who may take niceness back
        assert os.getpriority(os.PRIO_PROCESS, first_rank) == 0
    environ = (proc / "environ").read_text()
    assert "NOTIFY_SOCKET" not in environ
    assert "secret" not in environ
    assert "STREAMERD_MEMORY_LIMIT=64MiB" in environ
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    log = socket_path.with_name("daemon.log")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert "a module of the working folder" not in log.read_text()


def test_modules_of_the_working_folder_are_no_modules_of_the_daemon() -> None:
    environ = {
        "PYTHONPATH": os.pathsep.join(["", ".", "./", "daemon", "/abs", "../up"]),
        "STREAMERD_SOCKET": "/s",
        "LD_PRELOAD": "x.so",
        "WATCHDOG_USEC": "1",
        "HF_TOKEN": "t",
        "SSL_CERT_FILE": "/here/ca.pem",
        "https_proxy": "http://user:password@proxy",
        "LD_LIBRARY_PATH": "/cuda",
    }
    assert own_daemon.daemon_environment(environ, "/here") == {
        "PYTHONPATH": "/here/daemon:/abs:/here/../up",
        "STREAMERD_SOCKET": "/s",
        "LD_LIBRARY_PATH": "/cuda",
    }
    assert "PYTHONPATH" not in own_daemon.daemon_environment({"PYTHONPATH": "."}, "/here")


def test_the_log_is_of_one_run_and_the_last_one_is_kept(
    socket_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(text: str) -> None:
        program = f"import sys; sys.exit('{text}')"
        monkeypatch.setattr(own_daemon, "_daemon_command", command(program))
        with pytest.raises(DaemonUnavailable, match=f"ended before it was ready.*: {text}$"):
            own_daemon.start_daemon(str(socket_path))

    log, last = socket_path.with_name("daemon.log"), socket_path.with_name("daemon.log.1")
    failing("one")
    assert not last.exists()
    failing("two")
    assert (log.read_text(), last.read_text()) == ("two\n", "one\n")
    theirs = socket_path.with_name("theirs")
    theirs.write_text("kept")
    for path in (log, last):
        path.unlink()
        path.symlink_to(theirs)
    failing("three")
    assert (log.read_text(), theirs.read_text()) == ("three\n", "kept")
