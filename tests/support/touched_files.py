"""A checkpoint file that tests touch or change, and a daemon's figures about it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.daemon import DaemonProcess
from tests.support.worlds import (
    shards_of,
    totals_of,
)

BLOCKS = 8


def read_and_proven(daemon: DaemonProcess) -> tuple[int, int]:
    """Bytes read from files so far, and bytes read again only for their checksums."""
    totals = totals_of(daemon.socket)
    return totals["source_read_bytes"], totals["source_proof_bytes"]


def flip(path: Path, at: int) -> None:
    """Change one byte in place; size and time of last change stay as they are."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0xFF]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def resident_of(daemon: DaemonProcess, path: Path) -> list[int]:
    return [
        row["resident_bytes"]
        for row in shards_of(daemon.socket)
        if str(path) in (row["uri"], *row["names"])
    ]
