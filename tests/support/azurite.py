"""Microsoft's emulator of Azure Storage, from npm, run as a separate process.

It is installed into `.stores/` in the repository's root on first use, or beforehand by
`python -m tests.support.azurite`.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import secrets
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from azure.storage.blob import BlobServiceClient

VERSION: Final = "3.35.0"
ACCOUNT: Final = "streamertests"

_HOME: Final = Path(__file__).parents[2] / ".stores"
_SCRIPT: Final = _HOME / "node_modules/azurite/dist/src/blob/main.js"
_LISTENS: Final = re.compile(r"listens on (https?://\S+)")


@dataclass(frozen=True, slots=True)
class Azurite:
    """A running emulator."""

    url: str
    """The URL `http://127.0.0.1:port`, without the account."""
    key: str
    """The account's key, made for this run."""

    def endpoint(self, url: str = "") -> str:
        """The account's blob endpoint; `url` may name a server in front of the emulator."""
        return f"{url or self.url}/{ACCOUNT}"

    def service(self, **options: Any) -> BlobServiceClient:
        """Azure's own client, which writes blobs as another program would."""
        return BlobServiceClient(self.endpoint(), credential=self.key, **options)


@functools.cache
def azurite_missing() -> str:
    """Why the emulator cannot run; empty if it can. Installs it if that is possible."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "Azurite needs node and npm, and they are not installed"
    _HOME.mkdir(exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in other processes may install Azurite too
        if _SCRIPT.exists():
            return ""
        command = ["npm", "install", "--prefix", str(_HOME), "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*command, f"azurite@{VERSION}"], capture_output=True, text=True, check=False
        )
    return "" if _SCRIPT.exists() else f"npm install azurite failed: {done.stderr.strip()[-300:]}"


@contextlib.contextmanager
def azurite(certificate: Path | None = None) -> Iterator[Azurite]:
    """A running emulator, empty at first, that keeps everything in memory.

    Args:
        certificate: a PEM file with a server's key and certificate. The emulator then speaks TLS
            and also takes access tokens, of which it verifies all but the signature.
    """
    key = b64encode(secrets.token_bytes(32)).decode()
    secure = ["--cert", str(certificate), "--key", str(certificate), "--oauth", "basic"]
    with subprocess.Popen(
        [
            *("node", str(_SCRIPT), "--blobHost", "127.0.0.1", "--blobPort", "0"),
            *("--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"),
            *(secure if certificate else []),
        ],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**_without_proxies(os.environ), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
        cwd=_HOME,
    ) as process:
        try:
            yield Azurite(_url(process), key)
        finally:
            process.terminate()
            # Azurite writes to its output as it ends, so the pipe is closed only after that.
            process.wait(30)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        found = _LISTENS.search(line)
        if found:
            return found[1]
    raise AssertionError(f"Azurite ended with {process.wait()} before it listened")


def _without_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if "proxy" not in name.lower()}


if __name__ == "__main__":
    print(azurite_missing() or "Azurite is installed")  # noqa: T201 - for who runs `make test`
