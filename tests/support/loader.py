"""Client processes: each opens a checkpoint, stops where it was told to, and tells what it read.

One server process imports torch once and forks a client for each request; `LoaderProcess` is the
test's end of such a client. The two exchange lines. The process says `ready`, and also `first`
after its first tensor if it is to stop there. Each time it waits for a line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from streamer_client.contract.errors import DaemonUnavailable
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from streamer_client.client import Client

LINE_S: Final = 60.0
REQUEST_BYTES: Final = 64 << 10


class LoaderServer:
    """Forks clients."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.loader", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
            )

    def start(self, socket_path: str, source: str, **options: object) -> LoaderProcess:
        """Start a client process, which waits before it first talks to the daemon."""
        ours, theirs = socket.socketpair()
        request = json.dumps({"socket": socket_path, "source": source, **options}).encode()
        with theirs:
            socket.send_fds(self._channel, [request], [theirs.fileno()])
        return LoaderProcess(ours)

    def close(self) -> None:
        self._channel.close()
        self._process.wait(LINE_S)


@contextlib.contextmanager
def loader_server() -> Iterator[LoaderServer]:
    server = LoaderServer()
    try:
        yield server
    finally:
        server.close()


class LoaderProcess:
    """The test's end of a client process. A context manager that leaves no process."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        channel.settimeout(LINE_S)
        self._lines = channel.makefile("r")
        self.pid = int(self.line().removeprefix("ready "))

    @property
    def channel(self) -> socket.socket:
        """Readable when the process has said something, or is gone."""
        return self._channel

    def line(self) -> str:
        """The next line; empty if the process died."""
        return self._lines.readline().strip()

    def await_line(self, text: str) -> None:
        line = self.line()
        assert line == text, f"expected {text!r}, got {line!r}"

    def go_on(self) -> None:
        self._channel.sendall(b"\n")

    def result(self) -> dict[str, Any]:
        """What the process read; see `_load`."""
        line = self.line()
        assert line, "the loader died"
        found: dict[str, Any] = json.loads(line)
        assert "error" not in found, found["error"]
        return found

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def await_end(self) -> None:
        eventually(lambda: not os.path.exists(f"/proc/{self.pid}"), LINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._channel.close()
        if error is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.await_end()


def digest(tensors: dict[str, bytes]) -> str:
    """One text for names and bytes."""
    whole = hashlib.sha256()
    for name, data in sorted(tensors.items()):
        whole.update(f"{name}\0{len(data)}\0".encode())
        whole.update(data)
    return whole.hexdigest()


def start_together(loaders: Sequence[LoaderProcess]) -> None:
    """Let all loaders open at once."""
    for loader in loaders:
        loader.go_on()


# --- the server and its children ------------------------------------------------------------------


def _serve(channel: socket.socket) -> None:
    import torch

    # Imported here, so that no child has to import it.
    from streamer_client import client as _client

    del _client
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # this process need not wait for its children
    while True:
        request, fds, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 1)
        if not request:
            return
        if os.fork() == 0:
            channel.close()
            with socket.socket(fileno=fds[0]) as talk:
                _client_process(json.loads(request), talk)
            os._exit(0)
        os.close(fds[0])


def _client_process(options: dict[str, Any], talk: socket.socket) -> None:
    lines = talk.makefile("r")

    def say(text: str) -> None:
        talk.sendall(f"{text}\n".encode())

    def stop_at(text: str) -> None:
        say(text)
        if not lines.readline():
            os._exit(1)  # the test is over

    stop_at(f"ready {os.getpid()}")
    try:
        _load(options, stop_at, say)
    except Exception as error:  # noqa: BLE001  told to the test, which judges it
        where = " < ".join(frame.name for frame in traceback.extract_tb(error.__traceback__)[:0:-1])
        say(json.dumps({"error": f"{type(error).__name__}: {error} (in {where})"}))


def _connected(options: dict[str, Any]) -> Client:
    """Connect; with `connect_s`, look for a daemon for so long, as a supervisor would."""
    from streamer_client.client import daemon_client

    def connect() -> Client | None:
        try:
            return daemon_client(
                options["socket"],
                label=options.get("label", "loader"),
                reconnect_s=options.get("reconnect_s", 5.0),
            )
        except DaemonUnavailable as error:
            if "connect_s" not in options:
                raise
            raise AssertionError(str(error)) from error

    found = eventually(connect, options.get("connect_s", 0.0))
    assert found is not None
    return found


def _load(options: dict[str, Any], stop_at: Any, say: Any) -> None:
    import torch

    os.environ.update(options.get("environ", {}))
    found: dict[str, bytes] = {}
    kept = []
    with (
        _connected(options) as client,
        client.open(
            options["source"],
            hold=options.get("hold", True),
            memory_limit=options.get("memory_limit", -1),
            concurrency=options.get("concurrency"),
        ) as checkpoint,
    ):
        for name, tensor in checkpoint.tensors():
            found[name] = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            kept.append(tensor)
            if options.get("stop_at_first") and len(found) == 1:
                stop_at("first")
        stats = checkpoint.stats
        report = {
            "digest": digest(found),
            "mode": stats.mode,
            "resident_bytes": stats.resident_bytes,
            "total_bytes": stats.total_bytes,
        }
    say(json.dumps(report))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as own:
        _serve(own)
