"""The daemon as a process: its start, its signals, its one socket, and its end."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from streamer_client.contract.messages import Config, GetConfig
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually


def _loaded(daemon: DaemonProcess, source: Path) -> None:
    write_model(source, shards=2, blocks=3)
    with RawClient(daemon.socket) as client:
        client.open(str(source), hold=True).await_grants(6)
    assert len(daemon.segments()) == 2


def test_sigterm_leaves_what_the_next_daemon_takes_over(
    streamerd: DaemonProcess, tmp_path: Path
) -> None:
    _loaded(streamerd, tmp_path / "m")
    assert streamerd.stop() == 0
    assert len(streamerd.segments()) == 2
    assert len(os.listdir(streamerd.sidecars)) == 3  # two sidecars and the mark
    assert not os.path.exists(streamerd.socket)


@pytest.mark.parametrize(
    ("flag", "number"), [("--ephemeral", signal.SIGTERM), ("--threads=2", signal.SIGINT)]
)
def test_an_end_that_leaves_nothing(
    daemon_maker: Daemons, tmp_path: Path, flag: str, number: signal.Signals
) -> None:
    daemon = daemon_maker.start(flag)
    _loaded(daemon, tmp_path / "m")
    daemon.signal(number)
    assert daemon.wait() == 0
    assert daemon.segments() == []
    assert not daemon.sidecars.exists()


def test_clean_removes_what_is_left_and_nothing_of_others(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    daemon, other = daemon_maker.start(), daemon_maker.start()
    for one in (daemon, other):
        _loaded(one, tmp_path / "m")
    cleaner = daemon_maker.make("--clean", socket_path=Path(daemon.socket))
    cleaner.log_path = tmp_path / "cleaner.log"
    assert cleaner.run_to_its_end() == 78
    assert f"(pid {daemon.pid}) already serves" in cleaner.log
    for one in (daemon, other):
        one.stop()
    assert cleaner.run_to_its_end() == 0
    assert "2 slabs" in cleaner.log
    assert daemon.segments() == []
    assert not daemon.sidecars.exists()
    assert len(other.segments()) == 2


def test_sigterm_while_blocks_are_on_their_way(streamerd: DaemonProcess, tmp_path: Path) -> None:
    write_model(tmp_path / "m", shards=1, blocks=64)
    workers = streamerd.status()["workers"]
    with RawClient(streamerd.socket) as client:
        load = client.open(str(tmp_path / "m"))
        load.await_grants(2)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        load.consume(set(load.granted))
        eventually(streamerd.reads_under_way)
        streamerd.process.terminate()
        eventually(lambda: not os.path.exists(streamerd.socket))
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert streamerd.wait() == 0
    assert "Traceback" not in streamerd.log
    assert "ERROR" not in streamerd.log


def test_second_daemon_on_a_socket_is_told_who_has_it(
    streamerd: DaemonProcess, daemon_maker: Daemons, tmp_path: Path
) -> None:
    second = daemon_maker.make(socket_path=Path(streamerd.socket))
    second.log_path = tmp_path / "second.log"
    assert second.run_to_its_end() == 78
    assert f"a streamerd (pid {streamerd.pid}) already serves {streamerd.socket}" in second.log
    assert "--socket" in second.log
    with RawClient(streamerd.socket):
        pass


def test_a_stale_socket_file_is_replaced(daemon_maker: Daemons) -> None:
    daemon = daemon_maker.make()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(daemon.socket)
    assert stat.S_ISSOCK(os.stat(daemon.socket).st_mode)
    assert daemon.start().status()["socket"] == daemon.socket


@pytest.mark.parametrize(
    ("flags", "config", "texts"),
    [
        ([f"--memory-limit={2 * BLOCK - 1}"], "", ["memory_limit", "raise memory_limit", "window"]),
        ([], "memory_limt = '1GiB'\n", ["memory_limt", "did you mean memory_limit"]),
        ([], "lag_s = 0\n", ["lag_s", "seconds, more than 0"]),
        ([], "workers =\n", ["not valid TOML"]),
        (["--memory-limit=64TiB"], "", ["/dev/shm", "remount,size="]),
        (["--block-size=5000"], "", ["block_size", "multiple of 4096"]),
        (["--socket=/proc/no/control.sock"], "", ["/proc/no", "choose another with --socket"]),
        (["--socket=/tmp/" + "x" * 120], "", ["104", "shorter"]),
        (["--readonly-shm=/proc"], "", ["readonly_shm: /proc is not a second mount of /dev/shm"]),
    ],
)
def test_a_wrong_configuration_exits_78_and_says_what_to_set(
    daemon_maker: Daemons, tmp_path: Path, flags: list[str], config: str, texts: list[str]
) -> None:
    path = tmp_path / "streamerd.toml"
    path.write_text(config)
    daemon = daemon_maker.make(f"--config={path}", *flags)
    assert daemon.run_to_its_end() == 78
    for text in texts:
        assert text in daemon.log
    assert "Traceback" not in daemon.log
    assert daemon.segments() == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root is refused")
def test_root_that_serves_others_exits_78_unless_told_to(daemon_maker: Daemons) -> None:
    daemon = daemon_maker.make("--socket-mode=0660")
    assert daemon.run_to_its_end() == 78
    assert "socket_mode to 0600" in daemon.log
    assert "allow_root to true" in daemon.log
    assert not os.path.exists(daemon.socket + ".lock")
    told = daemon_maker.start("--socket-mode=0660", "--allow-root")
    assert stat.S_IMODE(os.stat(told.socket).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(daemon_maker.start().socket).st_mode) == 0o600


def test_an_unknown_variable_is_named(
    daemon_maker: Daemons, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMERD_MEMORY_LIMTI", "1GiB")
    daemon = daemon_maker.make()
    assert daemon.run_to_its_end() == 78
    assert "STREAMERD_MEMORY_LIMTI; did you mean STREAMERD_MEMORY_LIMIT" in daemon.log


def _config(daemon: DaemonProcess) -> dict[str, tuple[object, str]]:
    with RawClient(daemon.socket) as client:
        body = client.request(GetConfig(client.next_id()), Config).body
    return {key: (row["value"], row["origin"]) for key, row in body.items()}  # type: ignore[index]


def test_config_shows_each_value_and_its_origin(
    daemon_maker: Daemons, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "streamerd.toml"
    path.write_text("lag_s = 5\nspace_wait_s = 6\n")
    monkeypatch.setenv("STREAMERD_SPACE_WAIT_S", "7")
    shown = _config(daemon_maker.start(f"--config={path}"))
    assert shown["lag_s"] == (5.0, str(path))
    assert shown["space_wait_s"] == (7.0, "environment STREAMERD_SPACE_WAIT_S")
    assert shown["block_size"] == (BLOCK, "flag --block-size")
    assert shown["heartbeat_s"] == (2.0, "default")


def test_sighup_takes_a_changed_limit_over(daemon_maker: Daemons, tmp_path: Path) -> None:
    path = tmp_path / "streamerd.toml"
    path.write_text(f"memory_limit = {16 * BLOCK}\n")
    daemon = daemon_maker.make(f"--config={path}")
    daemon.drop_flag("--memory-limit")
    daemon.start()
    write_model(tmp_path / "m", shards=1, blocks=12)
    with RawClient(daemon.socket) as client:
        load = client.open(str(tmp_path / "m"), hold=True)
        assert load.held
        load.await_grants(12)
        load.close()
    path.write_text(f"memory_limit = {4 * BLOCK}\nlag_s = 1\n")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: daemon.status()["memory"]["limit_bytes"] == 4 * BLOCK)
    eventually(lambda: daemon.allocated_bytes() <= 4 * BLOCK)
    assert _config(daemon)["memory_limit"] == (4 * BLOCK, str(path))
    assert _config(daemon)["lag_s"] == (30.0, "default")
    assert "lag_s" in daemon.log
    with RawClient(daemon.socket) as client:
        assert not client.open(str(tmp_path / "m"), hold=True).held


def test_sighup_with_a_broken_file_changes_nothing(daemon_maker: Daemons, tmp_path: Path) -> None:
    path = tmp_path / "streamerd.toml"
    path.write_text("")
    daemon = daemon_maker.start(f"--config={path}")
    path.write_text("memroy_limit = 1\n")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: "event=configuration_not_reloaded" in daemon.log)
    assert "memory_limit" in daemon.log
    assert daemon.status()["memory"]["limit_bytes"] == 16 * BLOCK


def test_ephemeral_stays_for_a_client_and_leaves_after_it(daemon_maker: Daemons) -> None:
    daemon = daemon_maker.make("--ephemeral", "--idle-exit-s=1.5").start()
    with RawClient(daemon.socket) as client:
        client.request(GetConfig(client.next_id()), Config)
        assert daemon.process.poll() is None
    assert daemon.wait() == 0
    assert "event=idle_exit" in daemon.log
    assert not os.path.exists(daemon.socket)
