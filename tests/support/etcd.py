"""A real etcd for one test, without certificates or with them, on ports of its own."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.support.waiting import eventually

READY_S: Final = 20.0


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class EtcdServer:
    """One etcd with a data directory, which may be stopped and started again."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self.port = free_port()
        self._peer_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def members_uri(self) -> str:
        return f"etcd://127.0.0.1:{self.port}"

    def start(self, *flags: str) -> None:
        """Start it, and return once it is healthy."""
        client, peer = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self._peer_port}"
        command: Sequence[str] = (
            self._program, "--name=one", f"--data-dir={self._directory}", "--log-level=error",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=one={peer}", *flags,
        )  # fmt: skip
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually(self._answers, READY_S)

    def _answers(self) -> bool:
        """Whether it is healthy; one that is killed before may leave files it cannot start with."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def etcd_server(directory: Path) -> Iterator[EtcdServer]:
    """A running etcd; the test is skipped where the program is not installed."""
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("needs the program etcd (Debian: etcd-server)")
    server = EtcdServer(program, directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()
