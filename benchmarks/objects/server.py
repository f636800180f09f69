"""nginx on loopback in place of an object store: files of a directory, with counted requests.

Owns the server's life and its log. A bucket is a directory under the root, and an object is a file
in it. nginx itself answers HEAD, ranged GET, ETag and If-Match. It does not know ListObjectsV2, so
a listing made beforehand answers every `list-type=2` query of a bucket. Nobody checks signatures.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import shutil
import socket
import subprocess
import time
import urllib.request
from typing import Final, Self
from xml.sax.saxutils import escape

from benchmarks.objects.configuration import CONNECTIONS, Nginx, Port
from benchmarks.objects.delay import DelayServer
from benchmarks.objects.requests import LISTINGS, Requests, parsed, summed
from benchmarks.objects.tls import (
    TLS_STATISTICS,
    kernel_tls_opened,
    make_certificate,
    without_kernel_tls,
)

START_S: Final = 10.0
SETTLE_S: Final = 0.05
"""A request is logged once its last byte was sent, which its client may notice a little earlier."""


class ObjectServer:
    """A context manager that runs nginx; `root` holds the buckets.

    Args:
        root: directory of buckets, readable by this user.
        directory: a short-lived directory for configuration and log.
        workers: how many processes nginx has.
        tls: whether to speak TLS on a further port.
        delay_s: the delay of each answer on a further port; 0 for no such port.
    """

    def __init__(
        self, root: str, directory: str, workers: int, *, tls: bool = False, delay_s: float = 0.0
    ) -> None:
        self._root = root
        self._directory = directory
        self._workers = workers
        self._log = os.path.join(directory, "access.log")
        self._read_bytes = 0
        self._life = contextlib.ExitStack()
        self._delay_s = delay_s
        self._ports = {"": Port(free_port())}
        self._without_kernel_tls = ""
        """Why there is no kernel TLS; empty if there is."""
        if delay_s:
            self._ports["delay"] = Port(free_port(), delayed=True)
        if tls:
            self._ports["TLS"] = self._tls_port()
        self.bundle = self._ports["TLS"].bundle if tls else ""

    def endpoint(self, link: str) -> str:
        """The URL of the objects by the name of the link: "" (plain), "delay" or "TLS"."""
        port = self._ports[link]
        return f"{'https' if port.bundle else 'http'}://127.0.0.1:{port.port}"

    def kernel_tls(self) -> str:
        """The report's line about kernel TLS: how often it was used, or why it is not."""
        if self._without_kernel_tls:
            return self._without_kernel_tls
        with open(TLS_STATISTICS, encoding="ascii") as file:
            sent, received = kernel_tls_opened(file.read())
        return f"{sent} connections of this machine sent by it so far, {received} received"

    @property
    def links(self) -> list[str]:
        return list(self._ports)

    def __enter__(self) -> Self:
        with self._life:
            if self._delay_s:
                self._life.enter_context(DelayServer(self._delay_socket, self._delay_s))
            self._process = self._started()
            self._life.callback(self._process.wait, START_S)
            self._life.callback(self._process.terminate)
            self._wait_for_it()
            for bucket in sorted(os.listdir(self._root)):
                self._list(bucket)
            self.requests()
            self._life = self._life.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._life.close()

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        pid = self._process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [pid, *(int(child) for child in file.read().split())]

    def requests(self) -> Requests:
        """The requests since the last call; waits a moment for the log's last line."""
        time.sleep(SETTLE_S)
        with open(self._log, encoding="utf-8") as file:
            file.seek(self._read_bytes)
            lines = file.readlines()
            self._read_bytes = file.tell()
        return summed(parsed(lines))

    @property
    def _delay_socket(self) -> str:
        return os.path.join(self._directory, "delay.sock") if self._delay_s else ""

    def _tls_port(self) -> Port:
        certificate = make_certificate(self._directory)
        port = Port(free_port(), bundle=certificate.bundle, key=certificate.key)
        self._without_kernel_tls = without_kernel_tls()
        if self._without_kernel_tls:
            return port
        with_kernel = port._replace(kernel_tls=True)
        if self._refuses(with_kernel):
            self._without_kernel_tls = "this nginx's OpenSSL offers none"
            return port
        return with_kernel

    def _refuses(self, port: Port) -> bool:
        command = [*self._command((port,)), "-t"]
        return subprocess.run(command, capture_output=True, check=False).returncode != 0

    def _command(self, ports: tuple[Port, ...]) -> list[str]:
        """The command line that serves these ports, and its configuration's file."""
        _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = 4 * CONNECTIONS
        nginx = Nginx(
            root=self._root,
            directory=self._directory,
            workers=self._workers,
            user=pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() == 0 else "",
            files=most if files == resource.RLIM_INFINITY else min(files, most),
            ports=ports,
            delay_socket=self._delay_socket,
        )
        path = os.path.join(self._directory, "nginx.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(nginx.text())
        return [nginx_path(), "-p", self._directory, "-c", path, "-e", self._error_log]

    @property
    def _error_log(self) -> str:
        return os.path.join(self._directory, "error.log")

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command(tuple(self._ports.values())))

    def _wait_for_it(self) -> None:
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                with open(self._error_log, encoding="utf-8") as file:
                    raise RuntimeError(f"nginx did not start: {file.read()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._ports[""].port)) == 0

    def _list(self, bucket: str) -> None:
        """Make the bucket's listing, with the ETags that nginx gives."""
        listings = self._root + LISTINGS
        if bucket == os.path.basename(listings):
            return
        top = os.path.join(self._root, bucket)
        keys = sorted(
            os.path.relpath(os.path.join(folder, name), top)
            for folder, _, names in os.walk(top)
            for name in names
        )
        os.makedirs(listings, exist_ok=True)
        entries = "".join(self._entry(bucket, key) for key in keys)
        with open(os.path.join(listings, f"{bucket}.xml"), "w", encoding="utf-8") as file:
            file.write(
                '<?xml version="1.0" encoding="UTF-8"?>\n'
                '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>{bucket}</Name><KeyCount>{len(keys)}</KeyCount><MaxKeys>1000</MaxKeys>"
                f"<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
            )

    def _entry(self, bucket: str, key: str) -> str:
        url = f"{self.endpoint('')}/{bucket}/{key}"
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:  # noqa: S310  our own
            etag, size = answer.headers["ETag"], answer.headers["Content-Length"]
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z"
            f"</LastModified><ETag>{escape(etag)}</ETag><Size>{size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )


def nginx_path() -> str:
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise SystemExit("this benchmark needs nginx: apt-get install nginx-light")
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
