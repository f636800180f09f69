"""The daemon's configuration as a process uses it: it is checked, kept at a bad reload, and has a
start list.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streamerd.cli import prefetch
from streamerd.cli.main import main
from tests.support.checkpoints import write_model
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually


def _check(config: Path, text: str) -> subprocess.CompletedProcess[str]:
    config.write_text(text)
    command = [sys.executable, "-m", "streamerd", "--check", f"--config={config}"]
    command.append(f"--socket={config.parent}/control.sock")
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_good_configuration_is_told_with_what_follows_from_it(tmp_path: Path) -> None:
    done = _check(tmp_path / "c.toml", 'memory_limit = "64MiB"\n')
    assert done.returncode == 0
    assert f"memory_limit 64.0 MiB ({tmp_path}/c.toml)" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "c.toml"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('memory_limt = "1GiB"\n', "did you mean memory_limit"),
        ("workers = 0\n", "a whole number from 1 to 256"),
        ('readonly_shm = "/proc"\n', "readonly_shm: /proc"),
        ('socket_mode = "0660"\n', "the daemon would run as root"),
    ],
)
def test_a_wrong_one_ends_with_78_and_says_what_is_wrong(
    tmp_path: Path, text: str, says: str
) -> None:
    if "socket_mode" in text and os.geteuid() != 0:
        pytest.skip("needs root")
    done = _check(tmp_path / "c.toml", text)
    assert done.returncode == 78
    assert done.stderr.startswith("streamerd: ")
    assert says in done.stderr


def test_certificates_that_cannot_be_used_are_told_and_keep_no_daemon_from_starting(
    tmp_path: Path,
) -> None:
    """A daemon without its fleet reads from the store, so the check does not fail."""
    fleet = ["fleet = 'f'", "fleet_members = 'dns://nodes:1'", "fleet_listen = '0.0.0.0:1'"]
    files = [f"fleet_tls_{name} = '{tmp_path}/{name}.pem'" for name in ("cert", "key", "ca")]
    done = _check(tmp_path / "c.toml", "\n".join([*fleet, *files]))
    assert done.returncode == 0
    assert f"warning: the fleet's certificates cannot be used ({tmp_path}/cert.pem," in done.stderr
    assert "Until then loads read the store" in done.stderr


def test_a_reload_with_a_mistake_changes_nothing(daemon_maker: Daemons, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("lag_s = 5\n")
    daemon = daemon_maker.start(f"--config={config}")
    config.write_text("lag = 5\n")
    daemon.signal(signal.SIGHUP)
    eventually(lambda: "event=configuration_not_reloaded" in daemon.log)
    assert daemon.status()["memory"]["limit_bytes"] == 16 * BLOCK


# --- brought in at start --------------------------------------------------------------------------


def _all_resident(daemon: DaemonProcess, shards: int) -> bool:
    found = [shard for source in daemon.status()["sources"] for shard in source["shards"]]
    return len(found) == shards and all(shard["state"] == "resident" for shard in found)


def test_what_the_configuration_names_is_brought_in_at_start(
    daemon_maker: Daemons, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        write_model(tmp_path / name, shards=2, blocks=2)
    wanted = [
        {"source": str(tmp_path / "a"), "pattern": "*-1.*", "pin": True},
        str(tmp_path / "missing"),
        str(tmp_path / "b"),
    ]
    daemon = daemon_maker.start(f"--prefetch={json.dumps(wanted)}")
    eventually(lambda: _all_resident(daemon, 3))
    shards = [one for source in daemon.status()["sources"] for one in source["shards"]]
    assert {Path(shard["uri"]).name: shard["pinned"] for shard in shards} == {
        "a-1.safetensors": True, "b-0.safetensors": False, "b-1.safetensors": False,
    }  # fmt: skip
    assert f"event=prefetch_at_start_refused source={tmp_path}/missing error=" in daemon.log


# --- told in words --------------------------------------------------------------------------------


def test_evict_all_says_what_it_left_and_why(
    streamerd: DaemonProcess, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("used", "pinned", "idle"):
        write_model(tmp_path / name, shards=1, blocks=2)
    socket = ("--socket", streamerd.socket)
    with RawClient(streamerd.socket, label="rank 3") as client:
        client.open(str(tmp_path / "used"), hold=True).await_grants(2)
        for name in ("pinned", "idle"):
            assert main(["prefetch", str(tmp_path / name), *socket]) == 0
        assert main(["pin", str(tmp_path / "pinned"), *socket]) == 0
        capsys.readouterr()
        assert main(["evict", "--all", *socket]) == 0
    told = capsys.readouterr().out
    assert "1 shard, 128 KiB released; left: 1 shard (128 KiB) in use by pid " in told
    assert "(rank 3); 1 shard (128 KiB) pinned (`streamerctl unpin`)" in told


def test_an_interrupted_prefetch_says_what_goes_on(
    streamerd: DaemonProcess,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_model(tmp_path / "m", shards=1, blocks=2)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prefetch, "progress_of", interrupted)
    assert main(["prefetch", str(tmp_path / "m"), "--socket", streamerd.socket]) == 1
    told = capsys.readouterr().out
    assert told.startswith(f"the daemon goes on with {tmp_path}/m: 1 shard, 128 KiB;")
    eventually(lambda: _all_resident(streamerd, 1))
