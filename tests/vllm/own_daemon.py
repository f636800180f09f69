"""The daemon that a rank starts for its user where none runs.

Owns where it lives, what it is asked, and its end.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamer_client
from tests.support.waiting import eventually


@dataclass(frozen=True, slots=True)
class OwnDaemon:
    """A place for one; nothing runs there until a start of vLLM needs it."""

    runtime_directory: str

    @property
    def environment(self) -> tuple[tuple[str, str], ...]:
        """For starts of vLLM."""
        return (
            ("XDG_RUNTIME_DIR", self.runtime_directory),
            ("STREAMERD_BLOCK_SIZE", "64KiB"),
            ("STREAMERD_MEMORY_LIMIT", "64MiB"),
        )

    @property
    def socket(self) -> str:
        return f"{self.runtime_directory}/streamerd/control.sock"

    def status(self) -> dict[str, Any]:
        with streamer_client.connect(self.socket) as client:
            return client.admin.status()

    def read_bytes(self) -> int:
        """What it has read from sources."""
        return int(self.status()["totals"]["source_read_bytes"])


@contextmanager
def place_for_own_daemon() -> Iterator[OwnDaemon]:
    """A place, and the end of the daemon that was started there."""
    with tempfile.TemporaryDirectory(prefix="strd-") as directory:
        place = OwnDaemon(directory)
        yield place
        pid = int(place.status()["pid"])
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not Path(f"/proc/{pid}").exists(), 15)
