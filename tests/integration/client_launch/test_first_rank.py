"""A daemon takes over its user from the rank that started it, and nothing else of that rank."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer_client.connecting import own_daemon
from streamer_client.contract.errors import DaemonUnavailable
from tests.support.started_daemon import command
from tests.support.waiting import eventually

FIRST_RANK = """
import os, signal, sys
from streamer_client.connecting import own_daemon
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
own_daemon.private_directory(os.path.dirname(sys.argv[1]))
print(own_daemon.start_daemon(sys.argv[1]))
"""


@pytest.fixture
def first_rank(tmp_path: Path, socket_path: Path) -> Iterator[int]:
    """The pid of a real daemon that a rank with restricted limits and environment started."""
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
    settable = {int(one) for one in signal.valid_signals()}  # the C library reserves two signals
    assert ignored & settable <= {signal.SIGPIPE, signal.SIGXFSZ}
    assert os.readlink(proc / "cwd") == "/"
    assert os.readlink(proc / "fd" / "0") == "/dev/null"
    text = (proc / "limits").read_text()
    limits = {line[:25].strip(): line[25:].split() for line in text.splitlines()}
    for name in ("Max file size", "Max open files"):
        soft, hard = limits[name][:2]
        assert soft == hard
    assert limits["Max core file size"][0] == "0"
    if os.getuid() == 0:  # only root may lower the niceness of a process
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
