"""One socket has one daemon, by a lock that no crash leaves behind."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
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


@pytest.mark.parametrize("what", ["link", "dangling link", "hard link", "fifo", "folder"])
def test_what_somebody_else_put_there_is_neither_written_nor_truncated(
    tmp_path: Path, what: str
) -> None:
    path, theirs = tmp_path / "control.sock", tmp_path / "theirs"
    lock = Path(f"{path}.lock")
    theirs.write_text("kept")
    match what:
        case "link":
            lock.symlink_to(theirs)
        case "dangling link":
            lock.symlink_to(tmp_path / "made")
        case "hard link":
            lock.hardlink_to(theirs)
        case "fifo":
            os.mkfifo(lock)
        case _:
            lock.mkdir()
    with pytest.raises(ConfigError, match=rf"\({lock}\); remove what is there"):
        SocketLock(str(path)).__enter__()
    assert theirs.read_text() == "kept"
    assert not (tmp_path / "made").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_strangers_file_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "control.sock.lock"
    lock.write_text("kept")
    os.chown(lock, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        SocketLock(str(tmp_path / "control.sock")).__enter__()
    assert lock.read_text() == "kept"


def test_a_lock_that_was_removed_before_it_was_held_is_not_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "control.sock"
    flock, times = fcntl.flock, []

    def slow(fd: int, operation: int) -> None:
        times.append(fd)
        if len(times) == 1:
            os.unlink(f"{path}.lock")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", slow)
    with SocketLock(str(path)):
        assert len(times) == 2
        assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize(("private", "mode"), [(True, 0o700), (False, 0o755)])
def test_a_folder_that_is_made_is_for_whom_the_socket_is(
    tmp_path: Path, private: bool, mode: int
) -> None:
    before = os.umask(0)
    try:
        with SocketLock(str(tmp_path / "a" / "b" / "control.sock"), private=private):
            assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
            assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == mode
    finally:
        os.umask(before)
