"""The control connection of a client: greetings, refusals, waiting, and ends."""

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
from streamer_client.connecting.connection import Connection
from streamer_client.connecting.descriptors import DescriptorLink
from streamer_client.connecting.wire import GOODBYE_LINGER_MS
from streamer_client.contract.errors import (
    ConfigError,
    CorruptCheckpoint,
    DaemonUnavailable,
    MemoryLimitError,
    ProtocolMismatch,
    RequestRefused,
    SourceNotFound,
    UntrustedSocket,
)
from streamer_client.contract.messages import Goodbye, Heartbeat, Hello
from streamer_client.contract.socket import descriptor_socket
from tests.support.checkpoints import random_tensor, write_shard
from tests.support.daemon_script import Script
from tests.support.scripted_daemon import ScriptedDaemon, scripted_daemon
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
    with pytest.raises(ConfigError, match="more than 104 bytes"):
        streamer_client.connect(tmp_path / ("x" * 108))


@pytest.mark.parametrize("script", [Script(protocol=99), Script(welcome_protocol=99)])
def test_other_protocol(daemon: ScriptedDaemon) -> None:
    with pytest.raises(ProtocolMismatch, match="99"):
        streamer_client.connect(daemon.socket_path)


@pytest.mark.parametrize("script", [Script(heartbeat_s=float("nan"))])
def test_a_daemon_that_says_what_cannot_be(daemon: ScriptedDaemon) -> None:
    with pytest.raises(ProtocolMismatch, match="heartbeat_s is nan"):
        streamer_client.connect(daemon.socket_path)


def test_a_client_that_has_left_is_told_so_at_once(daemon: ScriptedDaemon, source: Path) -> None:
    client = daemon_client(daemon.socket_path)
    client.close()
    with pytest.raises(DaemonUnavailable, match="has left the daemon"):
        client.admin.status()
    with pytest.raises(DaemonUnavailable, match="has left the daemon"):
        client.open(source)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (Script(silent=True), "did not answer within"),
        (Script(greets=False), "takes connections and does not greet"),
    ],
)
def test_a_daemon_that_does_not_answer(daemon: ScriptedDaemon, told: str) -> None:
    with pytest.raises(DaemonUnavailable, match=told):
        Connection.to(daemon.socket_path, timeout_s=0.2)
    eventually(lambda: daemon.connections == 0, what="the end of the connection")


def test_a_daemon_that_greets_late(daemon: ScriptedDaemon, script: Script) -> None:
    script.greets = False
    greeting = threading.Timer(0.1, lambda: setattr(script, "greets", True))
    greeting.start()
    with daemon_client(daemon.socket_path) as client:
        assert client.admin.status()["pid"] == os.getpid()
    greeting.join()


@pytest.mark.parametrize(
    "script", [Script(refuse_client=RequestRefused("user 0 has 512 clients here already"))]
)
def test_a_daemon_that_takes_no_more_clients(daemon: ScriptedDaemon) -> None:
    with pytest.raises(RequestRefused, match="512 clients here already"):
        streamer_client.connect(daemon.socket_path)
    assert not daemon.frames


def test_hello_says_who_we_are(daemon: ScriptedDaemon, client: Client) -> None:
    hello = daemon.greeted[0]
    assert (hello.pid, hello.label) == (os.getpid(), "test")
    assert hello.world == Path("/proc/self/ns/mnt").stat().st_ino


def test_every_message_bears_the_token_of_its_connection(
    daemon: ScriptedDaemon, client: Client, source: Path
) -> None:
    with daemon_client(daemon.socket_path) as other:
        for each in (client, other):
            with each.open(source) as checkpoint:
                assert list(checkpoint.catalog) == ["w"]
    tokens = [session.token for session in daemon.ends.sessions.values()]
    assert len(set(tokens)) == 2
    opens = [frame[:16] for frame in list(daemon.frames) if b"Open" in frame]
    assert opens == tokens


@pytest.mark.parametrize("script", [Script(right_proof=False)])
def test_who_cannot_prove_to_be_the_same_daemon_gets_no_secret(
    daemon: ScriptedDaemon, tmp_path: Path
) -> None:
    """Somebody else may hold the control socket: the client sends Hello to it, and nothing more."""
    environ = {"AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_ACCESS_KEY_ID": "a", "HOME": str(tmp_path)}
    with (
        pytest.raises(UntrustedSocket, match="is not the daemon of the descriptor socket"),
        daemon_client(daemon.socket_path, environ=environ) as client,
    ):
        client.open("s3://bucket/model")
    eventually(lambda: daemon.connections == 0, what="the end of the connection")
    assert {type(message) for message in daemon.received} <= {Hello, Goodbye}
    assert not [frame for frame in daemon.frames if b"hunter2" in frame]
    assert not daemon.ends.arrived


def test_close_says_goodbye_and_joins(daemon: ScriptedDaemon) -> None:
    client = daemon_client(daemon.socket_path)
    client.close()
    client.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("streamer-wire")]
    eventually(lambda: daemon.seen(Goodbye), what="Goodbye")


def test_a_client_that_leaves_waits_until_its_last_messages_were_read(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon drops a client's last request, such as a prefetch, if the client's token ends
    before it is read.
    """
    waited = []
    wait_for_end = DescriptorLink.wait_for_end

    def wait(link: DescriptorLink, timeout_ms: int) -> None:
        eventually(lambda: daemon.seen(Goodbye), what="Goodbye")
        waited.append((link.fileno() >= 0, timeout_ms))
        wait_for_end(link, 60_000)

    monkeypatch.setattr(DescriptorLink, "wait_for_end", wait)
    daemon_client(daemon.socket_path).close()
    assert waited == [(True, GOODBYE_LINGER_MS)]


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
    """Another program takes the connection and drops it: the client says so at once, and leaves no
    thread.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.closing(listening) as listener:
        listener.bind(descriptor_socket(str(socket_path)))
        listener.listen()

        def drop() -> None:
            listener.accept()[0].close()

        dropping = threading.Thread(target=drop)
        dropping.start()
        with pytest.raises(DaemonUnavailable, match="closed the connection"):
            Connection.to(str(socket_path))
        dropping.join()
