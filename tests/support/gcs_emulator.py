"""PyPI's emulator of Google Cloud Storage over real HTTP, in a separate process.

It ends when its standard input does. `python -m tests.support.gcs_emulator` prints its port.

It has metadata, ranges of content and listings. It lacks preconditions, pages, and generations with
content, and refuses nobody: `gcs_store.py` has those.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit


@contextlib.contextmanager
def gcs_emulator() -> Iterator[str]:
    """The URL of a running emulator."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.gcs_emulator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def create_bucket(url: str, bucket: str) -> None:
    _send(url, "POST", "/storage/v1/b?project=p", f'{{"name": "{bucket}"}}'.encode())


def put_object(url: str, bucket: str, name: str, data: bytes) -> None:
    target = f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}"
    _send(url, "POST", target, data, "application/octet-stream")


def remove_object(url: str, bucket: str, name: str) -> None:
    _send(url, "DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")


def _send(
    url: str, method: str, target: str, body: bytes = b"", media: str = "application/json"
) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        connection.request(method, target, body, {"Content-Type": media})
        response = connection.getresponse()
        response.read()
        assert response.status < 300, f"{method} {target}: {response.status}"
    finally:
        connection.close()


def main() -> None:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    print(server._api._httpd.server_address[1], flush=True)  # noqa: T201 - what the parent reads
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
