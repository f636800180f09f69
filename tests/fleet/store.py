"""An object store that counts the bytes it sends: a handle for the test, a program in its host.

The program serves the files of a folder in the way of S3: HEAD, ranged GET and `If-Match`, with the
time of a file's last change as its ETag. It does not list, and does not look at signatures; one
access key may read nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from tests.support.visitor import REPOSITORY
from tests.support.waiting import eventually

PORT: Final = 9000
DENIED: Final = "AKIADENIED"
"""The access key that may read nothing."""
_NOTHING_LISTED: Final = b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
"""An object's URI, used as a prefix, has nothing under it."""
_PIECE_BYTES: Final = 256 << 10
_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)")


class CountingStore:
    """The test's end: puts objects, and reads what the program noted.

    Args:
        folder: for objects and notes.
        before: a command that goes on in the store's host.
        address: of that host.
    """

    def __init__(self, folder: Path, before: Sequence[str], address: str) -> None:
        self._objects = folder / "objects"
        self._notes = folder / "notes"
        self._ready = folder / "ready"
        self._objects.mkdir()
        self._notes.touch()
        program = [sys.executable, "-m", "tests.fleet.store", *map(str, (folder, address))]
        self._process = subprocess.Popen([*before, *program], cwd=REPOSITORY)
        self._endpoint = f"http://{address}:{PORT}"

    def wait(self) -> None:
        eventually(self._ready.exists, 20, "the store listens")

    def put(self, name: str, data: bytes) -> str:
        """Put an object into the store; returns its URI."""
        path = self._objects / "bucket" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_bytes(data)
        new.rename(path)
        return f"s3://bucket/{name}"

    def environ(self, key: str = "AKIAGOOD") -> dict[str, str]:
        """The environment of a caller."""
        return {
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": "secret of nothing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }

    def sent_bytes(self, uri: str) -> int:
        """Bytes of an object that the store has sent."""
        name = uri.removeprefix("s3:/")
        notes = (line.split() for line in self._notes.read_text().splitlines())
        return sum(int(size) for path, size in notes if path == name)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@contextlib.contextmanager
def counting_store(folder: Path, before: Sequence[str], address: str) -> Iterator[CountingStore]:
    store = CountingStore(folder, before, address)
    try:
        store.wait()
        yield store
    finally:
        store.end()


# --- the program ----------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    notes: int
    _etag = '"none"'

    def do_HEAD(self) -> None:
        with self._opened() as fd:
            if fd >= 0:
                self._answer(200, os.fstat(fd).st_size)

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            self._answer(200, len(_NOTHING_LISTED))
            self.connection.sendall(_NOTHING_LISTED)
            return
        with self._opened() as fd:
            if fd < 0:
                return
            size = os.fstat(fd).st_size
            asked = _RANGE.fullmatch(self.headers.get("Range", ""))
            start, last = (int(asked[1]), min(int(asked[2]), size - 1)) if asked else (0, size - 1)
            told = {"Content-Range": f"bytes {start}-{last}/{size}"} if asked else {}
            self._answer(206 if asked else 200, last + 1 - start, told)
            sent = start
            try:
                while sent <= last and (more := self._send(fd, sent, last + 1 - sent)):
                    sent += more
            finally:
                os.write(self.notes, f"{self.path} {sent - start}\n".encode())

    def _send(self, fd: int, start: int, size: int) -> int:
        sent: int = self.connection.send(os.pread(fd, min(size, _PIECE_BYTES), start))
        return sent

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """The object's descriptor; -1 if the caller got a refusal instead."""
        path = self.folder / self.path.partition("?")[0].lstrip("/")
        if f"Credential={DENIED}/" in self.headers.get("Authorization", ""):
            self._answer(403, 0)
            yield -1
            return
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            self._answer(404, 0)
            yield -1
            return
        try:
            self._etag = f'"{os.fstat(fd).st_mtime_ns:x}"'
            if self.headers.get("If-Match", self._etag) != self._etag:
                self._answer(412, 0)
                yield -1
            else:
                yield fd
        finally:
            os.close(fd)

    def _answer(self, status: int, size: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        if status < 300:
            self.send_header("ETag", self._etag)
            self.send_header("Accept-Ranges", "bytes")
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """Do nothing: callers may leave at any time."""


def main() -> None:
    folder, address = Path(sys.argv[1]), sys.argv[2]
    _Handler.folder = folder / "objects"
    _Handler.notes = os.open(folder / "notes", os.O_WRONLY | os.O_APPEND)
    with _Server((address, PORT), _Handler) as server:
        (folder / "ready").touch()
        server.serve_forever()


if __name__ == "__main__":
    main()
