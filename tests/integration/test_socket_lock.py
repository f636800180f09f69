"""One daemon a socket, by a lock that no crash leaves behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError
from streamerd.control.lock import SocketLock


def test_held_and_given_back(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "er" / "control.sock")
    with SocketLock(path):
        assert Path(path + ".lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(ConfigError) as caught, SocketLock(path):
            pass
        assert f"a streamerd (pid {os.getpid()}) already serves {path}" in str(caught.value)
        assert "choose another --socket" in str(caught.value)
        with SocketLock(str(tmp_path / "other.sock")):
            pass
    with SocketLock(path):
        pass


def test_the_kernel_gives_a_dead_holders_lock_back(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        SocketLock(path).__enter__()
        os.write(told, b"x")
        signal.pause()
        os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    with pytest.raises(ConfigError, match=f"pid {child}"), SocketLock(path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with SocketLock(path):
        assert Path(path + ".lock").read_text() == f"{os.getpid()}\n"


def test_a_shorter_pid_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    Path(f"{path}.lock").write_text("123456789012\n")
    with SocketLock(str(path)):
        assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / "file" / "control.sock")
    with pytest.raises(ConfigError, match=r"cannot use socket .*control\.sock: .*--socket"):
        SocketLock(path).__enter__()
