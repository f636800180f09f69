"""A real etcd for one test, with or without certificates, on its own ports."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.waiting import eventually

READY_S: Final = 20.0


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class EtcdFiles(NamedTuple):
    """PEM files of one authority."""

    ca: Path
    server: Path
    """The certificate and key of etcd, for its address."""
    cert: Path
    key: Path
    """The key of etcd's clients."""

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            f"--cert-file={self.server}",
            f"--key-file={self.server}",
            f"--trusted-ca-file={self.ca}",
            "--client-cert-auth",
        )


class EtcdServer:
    """One etcd with a data directory; it may be stopped and started again.

    Args:
        program: path of the etcd program.
        directory: directory for its data.
        address: address to listen on.
        before: a command that enters the namespace with that address.
        tls: certificates, which every client needs too; None for plain HTTP.
    """

    def __init__(
        self,
        program: str,
        directory: Path,
        address: str = "127.0.0.1",
        before: Sequence[str] = (),
        tls: EtcdFiles | None = None,
    ) -> None:
        self._tls = tls
        self.prefix = "/streamerd"
        """The prefix of the keys of this test's fleets."""
        self._address = address
        self._before = tuple(before)
        self._program = program
        self._directory = directory
        self.port = free_port()
        self._peer_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def members_uri(self) -> str:
        files = self._tls
        tls = f"&ca={files.ca}&cert={files.cert}&key={files.key}" if files else ""
        return f"etcd://{self._address}:{self.port}?prefix={self.prefix}{tls}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._address}:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self, *flags: str) -> None:
        """Start etcd, and return once it is healthy."""
        client = self.url
        flags = (*flags, *(self._tls.flags if self._tls else ()))
        peer = f"http://127.0.0.1:{self._peer_port}"
        command: Sequence[str] = (
            *self._before, self._program, "--name=one", f"--data-dir={self._directory}",
            "--log-level=error",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=one={peer}", *flags,
        )  # fmt: skip
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        eventually(self._answers, READY_S)

    def _answers(self) -> bool:
        """Whether etcd is healthy; if killed before, it may be unable to start again."""
        url, files = f"{self.url}/health", self._tls
        ask = f"import ssl, urllib.request as u; u.urlopen({url!r}, timeout=5, context=None)"
        if files is not None:
            context = f"ssl.create_default_context(cafile={str(files.ca)!r})"
            loaded = f"c.load_cert_chain({str(files.cert)!r}, {str(files.key)!r})"
            ask = f"import ssl; c = {context}; {loaded}; {ask.replace('None', 'c')}"
        command = [*self._before, sys.executable, "-c", ask]
        return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def etcd_server(directory: Path, tls: EtcdFiles | None = None) -> Iterator[EtcdServer]:
    """A running etcd; the test is skipped if the program is not installed."""
    program = shutil.which("etcd")
    if program is None:
        pytest.skip("needs the program etcd (Debian: etcd-server)")
    server = EtcdServer(program, directory, tls=tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()
