"""nginx on loopback in an object store's place: files of a directory, requests counted.

Owns the server's life, its configuration and its log. A bucket is a directory under the root, an
object a file in it; nginx itself answers HEAD, ranged GET, ETag and If-Match. It does not know
ListObjectsV2: a listing made beforehand answers every `list-type=2` query of a bucket. Signatures
are not looked at.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import time
import urllib.request
from typing import NamedTuple, Self
from xml.sax.saxutils import escape

START_S = 10.0
SETTLE_S = 0.05
"""A request is logged when its last byte was sent, which its client may notice a little earlier."""

_CONFIGURATION = """\
daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
{user}
error_log {directory}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format requests '$request_method $status $body_bytes_sent $uri';
  access_log {directory}/access.log requests;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  default_type application/octet-stream;
  sendfile on;
  tcp_nodelay on;
  keepalive_requests 1000000;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location / {{
      if ($args ~ "list-type=2") {{ rewrite ^/([^/]+) /.listings/$1.xml last; }}
    }}
    location /.listings/ {{ internal; types {{ application/xml xml; }} }}
  }}
}}
"""


class Requests(NamedTuple):
    """What was asked of the server between two looks."""

    gets: int
    """Of objects, whole or in part."""
    body_bytes: int
    others: int
    """HEAD, listings, and whatever failed."""


class ObjectServer:
    """A context manager; `root` holds the buckets.

    Args:
        root: directory of buckets, readable by this user.
        directory: for configuration and log; short-lived.
        workers: of nginx's processes.
    """

    def __init__(self, root: str, directory: str, workers: int) -> None:
        self._root = root
        self._directory = directory
        self._log = os.path.join(directory, "access.log")
        self._read_bytes = 0
        self.port = _free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        configuration = os.path.join(directory, "nginx.conf")
        user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(
                _CONFIGURATION.format(
                    workers=workers, directory=directory, user=user, root=root, port=self.port
                )
            )
        self._command = [_nginx(), "-p", directory, "-c", configuration]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        error_log = os.path.join(self._directory, "error.log")
        self._process = subprocess.Popen([*self._command, "-e", error_log])
        deadline_s = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._stop()
                raise RuntimeError(f"nginx did not start; its lines above and {error_log} say why")
            time.sleep(0.02)
        for bucket in sorted(os.listdir(self._root)):
            self._list(bucket)
        self.requests()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(START_S)

    @property
    def pids(self) -> list[int]:
        """The processes that serve."""
        assert self._process is not None
        pid = self._process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [pid, *(int(child) for child in file.read().split())]

    def requests(self) -> Requests:
        """What was asked since the last call; waits a moment for the log's last line."""
        time.sleep(SETTLE_S)
        gets = body_bytes = others = 0
        with open(self._log, encoding="utf-8") as file:
            file.seek(self._read_bytes)
            for line in file:
                method, status, sent, uri = line.split(maxsplit=3)
                if (
                    method == "GET"
                    and status in ("200", "206")
                    and not uri.startswith("/.listings")
                ):
                    gets += 1
                    body_bytes += int(sent)
                else:
                    others += 1
            self._read_bytes = file.tell()
        return Requests(gets, body_bytes, others)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _list(self, bucket: str) -> None:
        """Make the bucket's listing, with the ETags that nginx gives."""
        listings = os.path.join(self._root, ".listings")
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
        url = f"{self.endpoint}/{bucket}/{key}"
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD")) as answer:  # noqa: S310  our own
            etag, size = answer.headers["ETag"], answer.headers["Content-Length"]
        return (
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z"
            f"</LastModified><ETag>{escape(etag)}</ETag><Size>{size}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )


def _nginx() -> str:
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise SystemExit("this benchmark needs nginx: apt-get install nginx-light")
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
