"""The control connection: greetings, refusals, waiting, and ends."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import streamer_client
from streamer_client.client import Client, daemon_client, direct_client
from streamer_client.connection import Connection
from streamer_client.contract.errors import (
    ConfigError,
    CorruptCheckpoint,
    DaemonUnavailable,
    MemoryLimitError,
    ProtocolMismatch,
    RequestRefused,
    SourceNotFound,
)
from streamer_client.contract.messages import Goodbye, Heartbeat
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.scripted_daemon import Script, ScriptedDaemon, scripted_daemon
from tests.support.waiting import eventually


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_shard(tmp_path / "m.safetensors", {"w": random_tensor("F32", (100, 400))})
    return tmp_path


def test_nothing_answers(socket_path: Path) -> None:
    with pytest.raises(DaemonUnavailable, match=rf"{socket_path}.*systemctl start streamerd"):
        streamer_client.connect(socket_path)


def test_stale_socket_file(socket_path: Path) -> None:
    with scripted_daemon(socket_path):
        pass
    socket_path.touch()
    with pytest.raises(DaemonUnavailable, match="no daemon answers"):
        streamer_client.connect(socket_path)


def test_socket_path_too_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="more than 107 bytes"):
        streamer_client.connect(tmp_path / ("x" * 108))


def test_other_protocol(socket_path: Path) -> None:
    with (
        scripted_daemon(socket_path, Script(protocol=99)),
        pytest.raises(ProtocolMismatch, match="99"),
    ):
        streamer_client.connect(socket_path)


def test_a_daemon_that_does_not_answer(socket_path: Path) -> None:
    with (
        scripted_daemon(socket_path, Script(silent=True)),
        pytest.raises(DaemonUnavailable, match="did not answer within"),
    ):
        Connection.to(str(socket_path), timeout_s=0.2)


def test_hello_says_who_we_are(daemon: ScriptedDaemon, client: Client) -> None:
    hello = daemon.greeted[0]
    assert (hello.pid, hello.label) == (os.getpid(), "test")
    assert hello.pid_namespace == Path("/proc/self/ns/pid").stat().st_ino


def test_close_says_goodbye_and_joins(daemon: ScriptedDaemon) -> None:
    client = daemon_client(daemon.socket_path)
    client.close()
    client.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("streamer-wire")]
    eventually(lambda: daemon.seen(Goodbye), what="Goodbye")


def test_heartbeats_keep_a_quiet_connection(socket_path: Path) -> None:
    with scripted_daemon(socket_path, Script(heartbeat_s=0.02)) as daemon:
        beats = []
        handle = daemon._handle

        def counted(client: bytes, frame: bytes) -> None:
            beats.append(b"Heartbeat" in frame)
            handle(client, frame)

        daemon._handle = counted  # type: ignore[method-assign]
        with daemon_client(daemon.socket_path) as client:
            eventually(lambda: sum(beats) > 6, what="more than three heartbeats")
            assert client.admin.status()["pid"] == os.getpid()
    assert Heartbeat not in {type(message) for message in daemon.received}


def test_refusals_arrive_as_their_class(
    daemon: ScriptedDaemon, script: Script, client: Client, tmp_path: Path, source: Path
) -> None:
    with pytest.raises(SourceNotFound):
        client.open(tmp_path / "nowhere")
    script.refuse_open = MemoryLimitError("needs 10 of 5")
    with pytest.raises(MemoryLimitError, match="needs 10 of 5"):
        client.open(source)
    with pytest.raises(RequestRefused):
        client.admin.pin("x")
    script.refuse_open = None
    with client.open(source) as checkpoint:
        assert list(checkpoint.catalog) == ["w"]


def test_failed_shard_arrives_as_its_class(
    daemon: ScriptedDaemon, script: Script, client: Client, source: Path
) -> None:
    script.fail_shards[0] = CorruptCheckpoint("the disk lies")
    with client.open(source) as checkpoint:
        with pytest.raises(CorruptCheckpoint, match="the disk lies"):
            list(checkpoint.tensors())
        with pytest.raises(CorruptCheckpoint, match="the disk lies"):
            _ = checkpoint.catalog


def test_waiting_for_memory_is_logged_once_with_numbers(
    daemon: ScriptedDaemon,
    script: Script,
    client: Client,
    source: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    script.waits_first = 5
    with client.open(source) as checkpoint:
        assert list(checkpoint.catalog) == ["w"]
    lines = [record.getMessage() for record in caplog.records if "waiting" in record.getMessage()]
    assert len(lines) == 1
    assert "needs_bytes=100 available_bytes=10 limit_bytes=50" in lines[0]


def test_a_forked_child_is_refused_and_harmless(client: Client) -> None:
    child = os.fork()
    if child == 0:
        try:
            client.admin.status()
        except DaemonUnavailable as error:
            os._exit(0 if "does not survive fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.admin.status()


def test_a_forgotten_client_does_not_keep_the_interpreter(
    daemon: ScriptedDaemon, source: Path
) -> None:
    program = (
        "import sys, streamer_client\n"
        "client = streamer_client.connect(sys.argv[1])\n"
        "checkpoint = client.open(sys.argv[2])\n"
        "kept = dict(checkpoint.tensors())\n"
        "iterator = client.open(sys.argv[2], hold=False).tensors()\n"
        "next(iterator)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, daemon.socket_path, str(source)],
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_importing_the_package_is_cheap() -> None:
    program = (
        "import sys, streamer_client\n"
        "heavy = {'torch', 'zmq', 'posix_ipc', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "streamer_client.Client\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_limit": -2}, "memory_limit is -2"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"files": []}, "list of files is empty"),
    ],
)
def test_impossible_arguments(options: dict[str, object], text: str, tmp_path: Path) -> None:
    with direct_client() as client, pytest.raises(ConfigError, match=text):
        client.open(tmp_path, **options)  # type: ignore[arg-type]


def test_something_else_listens_there(socket_path: Path) -> None:
    """It takes the connection and drops it: told at once, and no thread stays."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(socket_path))
        listener.listen()

        def drop() -> None:
            for _ in range(2):  # the probe, and ZeroMQ's own
                listener.accept()[0].close()

        dropping = threading.Thread(target=drop)
        dropping.start()
        with pytest.raises(DaemonUnavailable, match="closed the connection"):
            Connection.to(str(socket_path))
        dropping.join()
