"""The demo's own streamerd, on a private socket; the demo asks it through streamerctl."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from streamer_vllm.demo.children import Child, DemoFailed

READY_TIMEOUT_S: Final = 60.0
STATUS_COLUMNS: Final = 90


class DemoDaemon:
    """A running daemon and the streamerctl that asks it."""

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path

    def streamerctl(self, *arguments: str) -> str:
        """Run a streamerctl command and return its output."""
        done = subprocess.run(
            [*streamerctl_command(), *arguments, "--socket", self.socket_path],
            capture_output=True,
            env={**os.environ, "COLUMNS": str(STATUS_COLUMNS)},
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoFailed(f"streamerctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def source_read_bytes(self) -> int:
        """Bytes read from storage since the daemon began."""
        totals: dict[str, Any] = json.loads(self.streamerctl("status", "--json"))["totals"]
        return int(totals["source_read_bytes"])


def streamerctl_command() -> list[str]:
    """The command line that runs this environment's streamerctl."""
    return [sys.executable, "-m", "streamerd.cli.main"]


@contextlib.contextmanager
def running_daemon(socket_path: str, log_path: str) -> Iterator[DemoDaemon]:
    """A daemon for the time of a `with` block; it answers when the block begins."""
    ready, tell_ready = os.pipe()
    # An ephemeral daemon leaves nothing in memory.
    command = [sys.executable, "-m", "streamerd", "--ephemeral", "--idle-exit-s", "86400"]
    command += ["--socket", socket_path, "--ready-fd", str(tell_ready)]
    try:
        child = Child("streamerd", command, {}, log_path, pass_fds=(tell_ready,))
    finally:
        os.close(tell_ready)
    with child:
        try:
            _wait_ready(child, ready)
        finally:
            os.close(ready)
        yield DemoDaemon(socket_path)


def _wait_ready(child: Child, ready: int) -> None:
    readable, _, _ = select.select([ready], [], [], READY_TIMEOUT_S)
    if not readable:
        raise child.failure(f"is not ready after {READY_TIMEOUT_S:.0f} s")
    if not os.read(ready, 16):  # the daemon closed its end of the pipe without a word
        child.wait(READY_TIMEOUT_S)
        raise child.failure("ended before it was ready")
