"""A client starts its own daemon only in folders that nobody else may write to."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from streamer_client.connecting import finding, own_daemon
from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.launch import open_client
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.started_daemon import BAD, command, mode_of
from tests.support.unprivileged import as_user


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
    """Two places of this user's own; the daemon that `started` starts would be at the second."""
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
    """The client must send no credentials to the other user's program, and load nothing from it."""
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
        # The daemon that is started at the last place ends at once, so the client reads directly.
        assert mode == "direct"
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
