"""A real S3 server for tests: moto's, in a process of its own, with the requests it received.

As a program (`python -m tests.support.object_server LOG`) it is that process: it tells its port on
stdout and appends one line of JSON for each request to LOG. moto checks no signatures.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

START_S: Final = 60.0
REPOSITORY: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Seen:
    """One request that the server answered."""

    method: str
    path: str
    query: str
    range: str
    status: int
    authorization: str

    @property
    def size_bytes(self) -> int:
        """Bytes that a ranged GET asked for."""
        start, _, last = self.range.removeprefix("bytes=").partition("-")
        return int(last) + 1 - int(start) if last else 0


class ObjectServer:
    """The tests' end of the server process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.object_server", str(log)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.endpoint = f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user of this store has in the environment."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }

    def put(self, bucket: str, key: str = "", content: bytes = b"") -> None:
        """Make a bucket, or an object in one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        try:
            path = f"/{bucket}/{quote(key)}" if key else f"/{bucket}"
            connection.request("PUT", path, body=content)
            answer = connection.getresponse()
            assert answer.status == 200, (answer.status, answer.read())
        finally:
            connection.close()

    def upload(self, directory: str | Path, bucket: str, prefix: str) -> str:
        """Put a directory's files under a prefix; its URI."""
        self.put(bucket)
        for path in sorted(Path(directory).rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(directory)}"
                self.put(bucket, key, path.read_bytes())
        return f"s3://{bucket}/{prefix}"

    def seen(self, method: str = "", part: str = "") -> list[Seen]:
        """Requests of a method whose path has `part` in it, in the order of their answers."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        requests = [Seen(**json.loads(line)) for line in lines]
        return [one for one in requests if method in ("", one.method) and part in one.path]

    def forget(self) -> None:
        """Count from here on."""
        self._log.write_text("")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(START_S)
        if self._process.stdout is not None:
            self._process.stdout.close()


@contextlib.contextmanager
def object_server(directory: Path) -> Iterator[ObjectServer]:
    """A server for the time of a `with` block."""
    server = ObjectServer(directory / f"requests-{time.monotonic_ns()}.jsonl")
    try:
        yield server
    finally:
        server.close()


# --- the process ---------------------------------------------------------------------------------

Start = Callable[..., Any]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


def _counting(app: App, log: Path) -> App:
    def counted(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        def started(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            line = {
                "method": environ["REQUEST_METHOD"],
                "path": environ["PATH_INFO"],
                "query": environ["QUERY_STRING"],
                "range": environ.get("HTTP_RANGE", ""),
                "status": int(status.split(maxsplit=1)[0]),
                "authorization": environ.get("HTTP_AUTHORIZATION", ""),
            }
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
            return start(status, headers, *rest)

        return app(environ, started)

    return counted


def serve(log: Path) -> None:
    """Serve until terminated."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept alive
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, _counting(app, log), threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
