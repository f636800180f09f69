"""The instance in slabs' names is random, is kept, and belongs to one daemon alone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from streamer_client.contract.errors import ConfigError
from streamerd.control.instance import Instance, read_instance
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.daemon import DaemonProcess, Daemons
from tests.support.leaks import SHM_DIR


def instance_at(socket_path: Path) -> str:
    with Instance.of(str(socket_path)) as instance:
        return instance.name


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert read_instance(str(path)) is None
    first = instance_at(path)
    assert re.fullmatch("[0-9a-f]{8}", first)
    assert instance_at(path) == first == read_instance(str(path))
    assert instance_at(tmp_path / "other") != first
    assert stat.S_IMODE((tmp_path / "s.instance").stat().st_mode) == 0o600


def test_another_folder_at_the_same_path_gets_another(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    names = set()
    for _ in range(2):
        folder.mkdir()
        names.add(instance_at(folder / "s"))
        shutil.rmtree(folder)
    assert len(names) == 2


def test_only_its_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Instance.of(str(path)) as first:
        os.unlink(f"{path}.instance")
        with Instance.of(str(path)) as second:
            first.remove()
            assert read_instance(str(path)) == second.name
            second.remove()
    assert read_instance(str(path)) is None


@pytest.mark.parametrize("content", ["", "0123", "XXXXXXXX\n", "01234567", "012345678\n"])
def test_what_cannot_be_understood_is_made_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "s"
    Path(f"{path}.instance").write_text(content)
    assert read_instance(str(path)) is None
    assert read_instance(str(path)) != instance_at(path) == read_instance(str(path))


@pytest.mark.parametrize("what", ["link", "hard link", "fifo", "folder"])
def test_what_somebody_else_put_there_is_refused(tmp_path: Path, what: str) -> None:
    path, theirs = tmp_path / "s", tmp_path / "theirs"
    file = Path(f"{path}.instance")
    theirs.write_text("01234567\n")
    match what:
        case "link":
            file.symlink_to(theirs)
        case "hard link":
            file.hardlink_to(theirs)
        case "fifo":
            os.mkfifo(file)
        case _:
            file.mkdir()
    with pytest.raises(ConfigError, match=rf"cannot use {file}: .*; remove it"):
        Instance.of(str(path))
    assert theirs.read_text() == "01234567\n"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_strangers_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "s.instance"
    file.write_text("01234567\n")
    os.chown(file, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        Instance.of(str(tmp_path / "s"))


# --- daemons --------------------------------------------------------------------------------------


def test_a_daemon_keeps_it_and_an_ephemeral_one_takes_it_away(daemon_maker: Daemons) -> None:
    daemon = daemon_maker.start()
    first = daemon.instance
    daemon.stop()
    assert read_instance(daemon.socket) == first
    assert daemon.start().instance == first
    daemon.stop()
    ephemeral = daemon_maker.start("--ephemeral")
    assert read_instance(ephemeral.socket)
    ephemeral.stop()
    assert read_instance(ephemeral.socket) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root may make mount namespaces")
def test_two_daemons_with_one_path_and_one_shm_do_not_notice_each_other(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    write_shard(tmp_path / "m.safetensors", {"w": random_tensor("F32", (10, 40))})
    folder = daemon_maker.directory / "run"
    folder.mkdir()
    private = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs tmpfs {folder} && exec "$@"', "sh")
    one, other = (
        daemon_maker.make(socket_path=folder / "s.sock", before=private) for _ in range(2)
    )
    one.log_path, other.log_path = (daemon_maker.directory / f"{name}.log" for name in "12")
    for daemon in (one, other):
        _prefetch(daemon.start(), tmp_path)
    assert one.instance != other.instance
    slabs = one.segments()
    assert len(slabs) == len(other.segments()) == 1
    other.signal(signal.SIGINT)
    other.wait()
    assert other.segments() == []
    assert one.segments() == slabs
    assert all(os.stat(SHM_DIR / slab).st_blocks for slab in slabs)


def _prefetch(daemon: DaemonProcess, source: Path) -> None:
    inside = ("nsenter", f"--target={daemon.pid}", "--mount")
    command = (sys.executable, "-m", "streamerd.cli.main", "--socket", daemon.socket)
    subprocess.run([*inside, *command, "prefetch", str(source)], check=True, capture_output=True)
