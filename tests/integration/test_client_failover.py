"""A load goes on when its daemon dies: through a new daemon, or straight from the files."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from streamer_client.checkpoint import Checkpoint
from streamer_client.client import Client, daemon_client
from streamer_client.connecting.connection import Connection
from streamer_client.contract.errors import DaemonUnavailable, MemoryLimitError, SourceChanged
from streamer_client.contract.messages import Close, Open, ReleaseShards
from streamer_client.launch import open_client
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon, scripted_daemon
from tests.support.waiting import eventually

BLOCK = 4096
PARTS = 12
SHAPE = (200, 11)


@pytest.fixture(params=["held", "copied", "tiny-window"])
def script(request: pytest.FixtureRequest) -> Script:
    window = 2 if request.param == "tiny-window" else 1_000_000
    return Script(
        block_bytes=BLOCK, window_blocks=window, holds=request.param == "held", allowed_grants=9
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for place in range(2):
        stored = {f"{place}.{part}": random_tensor("F32", SHAPE, part) for part in range(PARTS)}
        write_shard(tmp_path / f"m{place}.safetensors", stored)
    return tmp_path


def read_views(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return dict(checkpoint.tensors())


def read_into(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    targets = {f"{place}.{part}": torch.zeros(SHAPE) for place in range(2) for part in range(PARTS)}
    checkpoint.load_into(targets)
    return targets


Read = Callable[[Checkpoint], dict[str, torch.Tensor]]
reads = pytest.mark.parametrize("read", [read_views, read_into])


class Reading:
    """A load read in a thread, so that the test can act on the daemon meanwhile."""

    def __init__(self, read: Read, checkpoint: Checkpoint) -> None:
        self.found: dict[str, torch.Tensor] = {}
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(read, checkpoint))
        self._thread.start()

    def _run(self, read: Read, checkpoint: Checkpoint) -> None:
        try:
            self.found = read(checkpoint)
        except BaseException as error:  # noqa: BLE001  raised again in `result`
            self.error = error

    def result(self) -> dict[str, torch.Tensor]:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.found


def assert_right(found: dict[str, torch.Tensor]) -> None:
    assert len(found) == 2 * PARTS
    for name, tensor in found.items():
        data = random_tensor("F32", SHAPE, int(name.partition(".")[2]))[2]
        assert bytes(tensor.reshape(-1).view(torch.uint8).tolist()) == data, name


@reads
def test_no_daemon_comes_back(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path, read: Read
) -> None:
    with client.open(source) as checkpoint:
        reading = Reading(read, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        daemon.kill()
        assert_right(reading.result())
        assert checkpoint.stats.mode == "daemon+direct"
        assert_right(read(checkpoint))


@reads
def test_a_new_daemon_takes_over(
    daemon: ScriptedDaemon, script: Script, source: Path, read: Read
) -> None:
    with (
        daemon_client(daemon.socket_path, reconnect_s=10) as client,
        client.open(source) as checkpoint,
    ):
        reading = Reading(read, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        daemon.kill()
        second = Script(block_bytes=BLOCK, window_blocks=2)
        with scripted_daemon(daemon.socket_path, second) as successor:
            assert_right(reading.result())
            assert checkpoint.stats.mode == "daemon"
            assert successor.greeted
            checkpoint.close()


def test_views_are_leased_again_from_a_daemon_that_adopted_their_slabs(
    socket_path: Path, source: Path
) -> None:
    script = Script(block_bytes=BLOCK, allowed_grants=9)
    with (
        scripted_daemon(socket_path, script) as first,
        daemon_client(first.socket_path, reconnect_s=10) as client,
        client.open(source) as checkpoint,
    ):
        reading = Reading(read_views, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        first.kill()
        second = Script(block_bytes=BLOCK, adopts=first.slabs())
        with scripted_daemon(first.socket_path, second) as successor:
            found = reading.result()
            (reopened,) = successor.seen(Open)
            assert (reopened.options.hold, reopened.want) == (True, "none")
            checkpoint.close()
            assert_right(found)
            # Each shard has one mapping, made under the first daemon and kept under the second.
            starts = {name: tensor.data_ptr() for name, tensor in found.items()}
            assert starts["0.11"] - starts["0.0"] == 11 * starts_apart(found)
            # Once this request is answered, everything sent before it has arrived.
            client.admin.status()
            assert not successor.seen(Close)
            assert not successor.seen(ReleaseShards)
            del found["0.0"]
            for name in [name for name in found if name.startswith("1.")]:
                del found[name]
            eventually(lambda: successor.seen(ReleaseShards))
            assert [one.shards for one in successor.seen(ReleaseShards)] == [(1,)]
            found.clear()
            reading.found = {}
            eventually(lambda: successor.seen(Close))


def starts_apart(found: dict[str, torch.Tensor]) -> int:
    """Bytes between the starts of neighbouring tensors."""
    return found["0.1"].nbytes


@reads
def test_a_changed_source_is_not_mixed(
    daemon: ScriptedDaemon, script: Script, source: Path, read: Read
) -> None:
    with (
        daemon_client(daemon.socket_path, reconnect_s=10) as client,
        client.open(source) as checkpoint,
    ):
        reading = Reading(read, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        daemon.kill()
        second = Script(block_bytes=BLOCK, change_identity=True)
        with scripted_daemon(daemon.socket_path, second):
            with pytest.raises(SourceChanged, match="changed while"):
                reading.result()
            checkpoint.close()


def test_a_changed_file_is_not_mixed_when_read_directly(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path
) -> None:
    with client.open(source) as checkpoint:
        reading = Reading(read_into, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        (source / "m1.safetensors").write_bytes(b"something else")
        daemon.kill()
        with pytest.raises(SourceChanged, match=r"m1\.safetensors"):
            reading.result()


@reads
def test_a_file_that_was_replaced_by_name_is_read_to_its_end(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path, read: Read
) -> None:
    """A load reads the file that it opened, through the daemon and without it, wherever the name
    leads.
    """
    with client.open(source) as checkpoint:
        reading = Reading(read, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        other = source / "other"
        other.write_bytes(b"another model")
        other.rename(source / "m1.safetensors")
        (source / "m0.safetensors").unlink()
        daemon.kill()
        assert_right(reading.result())
        assert checkpoint.stats.mode == "daemon+direct"


@reads
def test_the_same_files_are_handed_to_a_new_daemon(
    daemon: ScriptedDaemon, script: Script, source: Path, read: Read
) -> None:
    with (
        daemon_client(daemon.socket_path, reconnect_s=10) as client,
        client.open(source) as checkpoint,
    ):
        reading = Reading(read, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        for path in list(source.iterdir()):
            path.unlink()
        daemon.kill()
        with scripted_daemon(daemon.socket_path, Script(block_bytes=BLOCK)) as successor:
            assert_right(reading.result())
            assert checkpoint.stats.mode == "daemon"
            assert successor.handed == daemon.handed
            checkpoint.close()


# --- no memory in the middle ----------------------------------------------------------------------


def run_out_of_memory(daemon: ScriptedDaemon, script: Script) -> None:
    """Let the daemon run out of memory: granted blocks stay granted, and no further block comes."""
    eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
    script.fail_shards = dict.fromkeys(range(2), MemoryLimitError("/dev/shm is full by others"))
    daemon.allow_grants(1)


@reads
def test_auto_goes_on_directly_where_memory_runs_out_in_the_middle(
    daemon: ScriptedDaemon,
    script: Script,
    source: Path,
    read: Read,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        open_client("auto", daemon.socket_path, reconnect_s=0) as client,
        client.open(source) as checkpoint,
    ):
        reading = Reading(read, checkpoint)
        run_out_of_memory(daemon, script)
        assert_right(reading.result())
        assert checkpoint.stats.mode == "daemon+direct"
        assert_right(read(checkpoint))
        assert client.admin.status()
    assert "/dev/shm is full by others" in caplog.text
    assert len(daemon.greeted) == 1


@reads
def test_required_fails_where_memory_runs_out_in_the_middle(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path, read: Read
) -> None:
    with client.open(source) as checkpoint:
        reading = Reading(read, checkpoint)
        run_out_of_memory(daemon, script)
        with pytest.raises(MemoryLimitError, match="full by others"):
            reading.result()


def test_views_of_before_stay_leased_where_memory_ran_out(socket_path: Path, source: Path) -> None:
    script = Script(block_bytes=BLOCK, allowed_grants=9)
    with (
        scripted_daemon(socket_path, script) as daemon,
        open_client("auto", daemon.socket_path, reconnect_s=0) as client,
    ):
        with client.open(source) as checkpoint:
            reading = Reading(read_views, checkpoint)
            run_out_of_memory(daemon, script)
            found = reading.result()
        client.admin.status()
        assert not daemon.seen(Close)
        assert_right(found)
        reading.found = {}
        found.clear()
        eventually(lambda: daemon.seen(Close), what="Close")


def test_views_survive_their_daemon(tmp_path: Path, socket_path: Path, source: Path) -> None:
    with scripted_daemon(socket_path, Script(block_bytes=BLOCK)) as daemon:
        with daemon_client(daemon.socket_path, reconnect_s=0) as client:
            with client.open(source) as checkpoint:
                tensors = dict(checkpoint.tensors())
                daemon.kill()
                assert_right(tensors)
            with pytest.raises(DaemonUnavailable, match="no daemon answers"):
                client.open(source)
        assert_right(tensors)
        del tensors


# --- a daemon that says nothing any more ----------------------------------------------------------


@pytest.fixture
def short_handshakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to connect, also to a silent daemon, are given up after 1.5 s instead of 5 s."""
    monkeypatch.setattr(Connection, "to", functools.partial(Connection.to, timeout_s=1.5))


@pytest.mark.usefixtures("short_handshakes")
def test_a_silent_daemon_is_given_up(socket_path: Path, source: Path) -> None:
    script = Script(block_bytes=BLOCK, holds=False, allowed_grants=5, heartbeat_s=0.05)
    with (
        scripted_daemon(socket_path, script) as daemon,
        daemon_client(daemon.socket_path, reconnect_s=0) as client,
        client.open(source) as checkpoint,
    ):
        reading = Reading(read_into, checkpoint)
        eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
        script.silent = True
        assert_right(reading.result())
        assert checkpoint.stats.mode == "daemon+direct"


@pytest.mark.usefixtures("short_handshakes")
def test_a_silent_daemon_is_left_with_the_last_of_its_loads(
    socket_path: Path, source: Path
) -> None:
    """The daemon may wake up.

    The client gives back its blocks by closing the connection, not by a message.
    """
    script = Script(block_bytes=BLOCK, holds=False, allowed_grants=5, heartbeat_s=0.05)
    with (
        scripted_daemon(socket_path, script) as daemon,
        daemon_client(daemon.socket_path, reconnect_s=0) as client,
    ):
        with client.open(source) as checkpoint:
            reading = Reading(read_into, checkpoint)
            eventually(lambda: script.allowed_grants == 0, what="all allowed grants")
            script.silent = True
            assert_right(reading.result())
            assert (daemon.connections, daemon.open_loads) == (1, 1)
        eventually(lambda: daemon.connections == 0, what="the end of the connection")
        assert daemon.open_loads == 0


def test_a_silent_daemon_keeps_what_is_viewed_until_the_last_view_is_gone(
    socket_path: Path, source: Path
) -> None:
    script = Script(block_bytes=BLOCK, heartbeat_s=0.05)
    with scripted_daemon(socket_path, script) as daemon:
        with daemon_client(daemon.socket_path, reconnect_s=0) as client:
            connection = client.admin._link.connection
            with client.open(source) as checkpoint:
                tensors = dict(checkpoint.tensors())
                script.silent = True
                eventually(lambda: not connection.alive, what="the silence to be noticed")
        assert_right(tensors)
        assert (daemon.connections, daemon.open_loads) == (1, 1)
        kept = tensors["1.3"][5:]
        tensors.clear()
        assert daemon.connections == 1
        del kept
        eventually(lambda: daemon.connections == 0, what="the end of the connection")


def test_a_silent_daemon_without_loads_is_left_at_once(socket_path: Path) -> None:
    with scripted_daemon(socket_path, Script(heartbeat_s=0.05)) as daemon:
        client = daemon_client(daemon.socket_path, reconnect_s=0)
        daemon.script.silent = True
        eventually(lambda: daemon.connections == 0, what="the end of the connection")
        client.close()
