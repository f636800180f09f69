"""streamerctl against a socket: its requests, its output, and its exit codes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamer_client.contract.errors import DaemonUnavailable, ProtocolMismatch, RequestRefused
from streamer_client.contract.messages import (
    Accepted,
    Config,
    DaemonMessage,
    Done,
    Evict,
    Failed,
    GetConfig,
    GetStatus,
    Heartbeat,
    Hello,
    Message,
    Pin,
    Prefetch,
    Status,
    Unpin,
)
from streamerd.cli.main import main
from streamerd.cli.request import Requester
from tests.support.answering_daemon import AnsweringDaemon
from tests.support.descriptor_end import Session
from tests.support.sample_status import busy_body, empty_body, id_of, shard


def _one(kind: type[Message], daemon: AnsweringDaemon) -> Message:
    (message,) = [message for message in daemon.received if isinstance(message, kind)]
    return message


def _nothing(_message: Message) -> list[DaemonMessage]:
    return []


def _status(message: Message) -> list[DaemonMessage]:
    return [Status(message.request_id, busy_body())] if isinstance(message, GetStatus) else []


def test_status_json_is_the_body_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with AnsweringDaemon(tmp_path, _status) as daemon:
        assert main(["status", "--json", "--socket", daemon.socket_path]) == 0
    assert json.loads(capsys.readouterr().out) == busy_body()
    hello = _one(Hello, daemon)
    assert isinstance(hello, Hello)
    assert (hello.pid, hello.label) == (os.getpid(), "streamerctl")


def test_a_probe_says_by_its_exit_code_alone_whether_a_daemon_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kubernetes' probes use it: the greeting suffices, and no status is made."""
    with AnsweringDaemon(tmp_path, _status) as daemon:
        path = daemon.socket_path
        assert main(["status", "--quiet", "--socket", path]) == 0
        assert not [message for message in daemon.received if isinstance(message, GetStatus)]
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
    assert main(["status", "--quiet", "--socket", path]) == 69
    assert "no daemon answers" in capsys.readouterr().err


def test_output_into_a_pipe_is_plain_and_wide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    with AnsweringDaemon(tmp_path, _status) as daemon:
        assert main(["status", "--socket", daemon.socket_path]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "model-rank-1-part-0.safetensors" in out
    assert max(map(len, out.splitlines())) <= 120


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    with AnsweringDaemon(tmp_path, _status) as daemon:
        command = [sys.executable, "-m", "streamerd.cli.main", "status"]
        read_end, write_end = os.pipe()
        os.close(read_end)
        with os.fdopen(write_end) as out:
            run = subprocess.run(
                [*command, "--socket", daemon.socket_path],
                stdout=out, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")


def test_config_shows_the_daemons_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body: dict[str, object] = {"workers": {"value": 3, "origin": "default"}}

    def answer(message: Message) -> list[DaemonMessage]:
        return [Config(message.request_id, body)] if isinstance(message, GetConfig) else []

    with AnsweringDaemon(tmp_path, answer) as daemon:
        assert main(["config", "--json", "--socket", daemon.socket_path]) == 0
        assert json.loads(capsys.readouterr().out) == body
        assert main(["config", "--socket", daemon.socket_path]) == 0
    assert "workers  3      default" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "kind", "expected"),
    [
        (["evict", "models/a", "/b", "s3://c/d"], Evict, ("{cwd}/models/a", "/b", "s3://c/d")),
        (["evict", "--all"], Evict, ()),
        (["pin", "models/a"], Pin, "{cwd}/models/a"),
        (["unpin", "models/a/"], Unpin, "{cwd}/models/a"),
    ],
)
def test_paths_are_sent_absolute(
    argv: list[str],
    kind: type[Evict | Pin | Unpin],
    expected: object,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(message: Message) -> list[DaemonMessage]:
        return [Done(message.request_id, "did it")] if isinstance(message, kind) else []

    with AnsweringDaemon(tmp_path, answer) as daemon:
        assert main([*argv, "--socket", daemon.socket_path]) == 0
    assert capsys.readouterr().out == "did it\n"
    message = _one(kind, daemon)
    sent = message.sources if isinstance(message, Evict) else getattr(message, "source", None)
    cwd = os.getcwd()
    if isinstance(expected, tuple):
        assert sent == tuple(path.format(cwd=cwd) for path in expected)
    else:
        assert sent == str(expected).format(cwd=cwd)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that has one file."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_bytes(b"something")
    return tmp_path / "m"


def test_prefetch_polls_until_everything_is_there(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamerd.cli.prefetch.POLL_S", 0.0)
    resident = iter([0, 40, 100])

    def answer(message: Message) -> list[DaemonMessage]:
        if isinstance(message, Prefetch):
            return [Accepted(message.request_id, (id_of("/m/a"),), 100)]
        if not isinstance(message, GetStatus):
            return []
        done = next(resident)
        state = "resident" if done == 100 else "streaming"
        sources = [{"uri": "/m", "shards": [shard("/m/a", 100, done, state)]}]
        return [Status(message.request_id, empty_body() | {"sources": sources})]

    (model / "b").write_bytes(b"not of the pattern")
    with AnsweringDaemon(tmp_path, answer) as daemon:
        source = str(model)
        argv = ["prefetch", source, "--pin", "--pattern", "a*", "--socket", daemon.socket_path]
        assert main(argv) == 0
    assert _one(Prefetch, daemon) == Prefetch(2, source, 1, "a*", pin=True, limit_bytes=-1)
    assert daemon.handed[:1] == [(f"{source}/a",)]
    assert capsys.readouterr().out.startswith(f"{source}: 1 shard, 100 B, 100 B in memory, ")


def test_a_prefetch_that_fails_ends_with_1_and_the_reason(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [{"uri": "/m", "shards": [shard("/m/a", 100, 0, "failed", error="it is gone")]}]

    def answer(message: Message) -> list[DaemonMessage]:
        if isinstance(message, Prefetch):
            return [Accepted(message.request_id, (id_of("/m/a"),), 100)]
        if isinstance(message, GetStatus):
            return [Status(message.request_id, empty_body() | {"sources": sources})]
        return []

    with AnsweringDaemon(tmp_path, answer) as daemon:
        argv = ["prefetch", f"{model}/a", "--socket", daemon.socket_path]
        assert main(argv) == 1
        assert "/m/a: it is gone" in capsys.readouterr().err
        assert main([*argv, "--no-wait"]) == 0


def test_a_prefetch_of_what_cannot_be_opened_asks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with AnsweringDaemon(tmp_path, _nothing) as daemon:
        argv = ["prefetch", str(tmp_path / "nowhere"), "--socket", daemon.socket_path]
        assert main(argv) == 1
        assert f"{tmp_path}/nowhere: no such file" in capsys.readouterr().err
    assert not any(isinstance(message, Prefetch) for message in daemon.received)


def test_what_can_be_opened_is_handed_over_and_what_cannot_is_named(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "a.safetensors").write_bytes(b"something")

    def answer(message: Message) -> list[DaemonMessage]:
        return [Done(message.request_id, "did it")] if isinstance(message, Evict) else []

    with AnsweringDaemon(tmp_path, answer) as daemon:
        assert main(["evict", str(model), "/gone", "--socket", daemon.socket_path]) == 0
    assert capsys.readouterr().out == "did it\n"
    assert _one(Evict, daemon) == Evict(2, (str(model), "/gone"), 1)
    assert daemon.handed[:1] == [(f"{model}/a.safetensors",)]


@pytest.mark.parametrize(("code", "status"), [("refused", 1), ("config", 78), ("internal", 1)])
def test_a_refusal_is_told_on_stderr_and_by_the_exit_code(
    code: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(message: Message) -> list[DaemonMessage]:
        if not isinstance(message, Evict):
            return []
        return [Failed(message.request_id, code, "leased by pid 7")]

    with AnsweringDaemon(tmp_path, answer) as daemon:
        assert main(["evict", "/m", "--socket", daemon.socket_path]) == status
    assert capsys.readouterr().err == "streamerctl: leased by pid 7\n"


def test_no_daemon_is_69_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "control.sock")
    assert main(["status", "--socket", path]) == 69
    error = capsys.readouterr().err
    assert f"no daemon answers at {path} ({path}.fd: No such file or directory)" in error
    assert "start one with `systemctl start streamerd` or `streamerd`" in error


def test_a_socket_file_left_over_is_told_from_a_missing_one(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stale:
        stale.bind(path + ".fd")
    with pytest.raises(DaemonUnavailable, match=r"\.fd: Connection refused\)"), Requester(path):
        pass


def test_a_daemon_that_accepts_and_says_nothing_is_unavailable(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as mute:
        mute.bind(path + ".fd")
        mute.listen()
        with (
            pytest.raises(DaemonUnavailable, match="takes connections and does not greet"),
            Requester(path, timeout_s=0.2),
        ):
            pass


def test_a_slow_answer_is_waited_for_while_heartbeats_are_answered(tmp_path: Path) -> None:
    beats: list[Message] = []

    class Slow(AnsweringDaemon):
        def _answers(self, session: Session, message: Message) -> list[DaemonMessage]:
            if isinstance(message, Heartbeat):
                beats.append(message)
                if len(beats) == 6:
                    return [Done(2, "at last")]
            return super()._answers(session, message)

    with (
        Slow(tmp_path, _nothing, heartbeat_s=0.02) as daemon,
        Requester(daemon.socket_path) as asked,
    ):
        assert asked.pin("/m") == "at last"


def test_the_daemons_error_is_raised_as_the_class_that_it_was(tmp_path: Path) -> None:
    def answer(message: Message) -> list[DaemonMessage]:
        return [Failed(2, "refused", "no")] if isinstance(message, Pin) else []

    with (
        AnsweringDaemon(tmp_path, answer) as daemon,
        pytest.raises(RequestRefused, match="no"),
        Requester(daemon.socket_path) as asked,
    ):
        asked.pin("/m")


def test_an_answer_of_another_kind_is_a_mismatch(tmp_path: Path) -> None:
    def answer(message: Message) -> list[DaemonMessage]:
        return [Config(2, {})] if isinstance(message, Pin) else []

    with (
        AnsweringDaemon(tmp_path, answer) as daemon,
        pytest.raises(ProtocolMismatch, match="answered with Config where Done was due"),
        Requester(daemon.socket_path) as asked,
    ):
        asked.pin("/m")


def test_shard_without_vllm_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["shard", "/m", "/o", "--tensor-parallel-size", "2"]) == 78
    assert "torch and vllm cannot be imported" in capsys.readouterr().err
