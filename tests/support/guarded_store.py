"""An S3 server for one test: moto behind a door that counts, refuses and delays requests.

Owns the door and its record of requests; moto owns objects and their bytes. Only the door judges
credentials, by access key and session token, as moto takes any.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SECRET: Final = "a-very-secret-access-key"  # noqa: S105  of nothing
"""The secret key of every caller."""
TOKEN: Final = "a-very-secret-session-token"  # noqa: S105  of nothing
"""A session token that a test would find wherever it was written."""
_KEY: Final = re.compile(r"Credential=([^/]+)/")
HELD_S: Final = 30.0


class Seen(NamedTuple):
    """One request as it came in."""

    method: str
    path: str
    range: str
    if_match: str
    key: str
    token: str

    @property
    def size_bytes(self) -> int:
        """The number of bytes in the requested range."""
        start, _, last = self.range.removeprefix("bytes=").partition("-")
        return int(last) + 1 - int(start) if last else 0


class GuardedStore:
    """The server. A context manager."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.denied: set[str] = set()
        """Access keys that may not read."""
        self.list_only: set[str] = set()
        """Access keys that may list but not read."""
        self.expired: set[str] = set()
        """Session tokens that have expired."""
        self.slow_downs = 0
        """How many more reads are answered by 503."""
        self.open = threading.Event()
        """While it is not set, the GETs of objects that `holds` chooses wait at the door."""
        self.open.set()
        self.holds: Callable[[Seen], bool] = lambda _: True
        self.waiting = 0
        self._counting = threading.Lock()
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._door, threaded=True, request_handler=_QuietHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def environ(self, key: str = "AKIAGOOD", token: str = "") -> dict[str, str]:
        """The environment of a caller."""
        values = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": token,
            "AWS_EC2_METADATA_DISABLED": "true",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
        }
        return {name: value for name, value in values.items() if value}

    # --- objects --------------------------------------------------------------------------------

    def put(self, bucket: str, key: str, data: bytes) -> None:
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        if bucket not in backend.buckets:
            backend.create_bucket(bucket, "us-east-1")
        backend.put_object(bucket, key, data)

    def put_model(self, directory: Path, uri: str) -> None:
        """Put every file of a directory, at any depth, under an s3:// prefix."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            self.put(bucket, f"{prefix}/{path.relative_to(directory)}", path.read_bytes())

    # --- what was seen --------------------------------------------------------------------------

    def reads(self) -> Counter[tuple[str, str]]:
        """How often each range of each object was requested."""
        gets = (each for each in list(self.seen) if each.method == "GET" and each.range)
        return Counter((each.path, each.range) for each in gets)

    def gets(self, part: str) -> list[Seen]:
        """Ranged GETs of objects with `part` in their path, in the order of arrival."""
        return [
            one for one in list(self.seen) if one.method == "GET" and one.range and part in one.path
        ]

    # --- the door -------------------------------------------------------------------------------

    def _door(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        key = _KEY.search(environ.get("HTTP_AUTHORIZATION", ""))
        seen = Seen(
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"],
            environ.get("HTTP_RANGE", ""),
            environ.get("HTTP_IF_MATCH", ""),
            key[1] if key else "",
            environ.get("HTTP_X_AMZ_SECURITY_TOKEN", ""),
        )
        if seen.method == "GET" and seen.range and self.holds(seen):
            self._hold()
        with self._counting:
            self.seen.append(seen)
        if seen.token in self.expired:
            return _refusal(start, seen, "400 Bad Request", "ExpiredToken", "The token has expired")
        lists = "list-type" in environ["QUERY_STRING"]
        if seen.key in self.denied or (seen.key in self.list_only and not lists):
            return _refusal(start, seen, "403 Forbidden", "AccessDenied", "Access Denied")
        if seen.range and self._slows_down():
            return _refusal(start, seen, "503 Slow Down", "SlowDown", "Reduce your request rate")
        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def _slows_down(self) -> bool:
        with self._counting:
            self.slow_downs -= 1
            return self.slow_downs >= 0

    def _hold(self) -> None:
        with self._counting:
            self.waiting += 1
        self.open.wait(HELD_S)
        with self._counting:
            self.waiting -= 1

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].reset()


class _QuietHandler(WSGIRequestHandler):
    """Keeps connections, and logs nothing."""

    protocol_version = "HTTP/1.1"
    timeout = HELD_S

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  its own name
        pass


def _refusal(
    start: StartResponse, seen: Seen, status: str, code: str, text: str
) -> Iterable[bytes]:
    body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("x-amz-request-id", "R1")]
    if seen.method == "HEAD":
        body = b""
    start(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


@contextlib.contextmanager
def guarded_store() -> Iterator[GuardedStore]:
    store = GuardedStore()
    store.start()
    try:
        yield store
    finally:
        store.close()
