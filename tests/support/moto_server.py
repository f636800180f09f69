"""moto's S3 over real HTTP, in a separate process that ends when its standard input does.

`python -m tests.support.moto_server` prints its port.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """The URL of a running server."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.moto_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def main() -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)  # noqa: T201 - what the parent reads
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
