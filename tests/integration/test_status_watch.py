"""`status --watch` in a terminal: it goes on when the daemon ends, and says what happened."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.checkpoints import write_model
from tests.support.daemon import DaemonProcess
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually


class Terminal:
    """A command in a terminal of its own, and everything that it wrote."""

    def __init__(self, *command: str, columns: int, term: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environ = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ | {"TERM": term}
        )
        os.close(theirs)
        self._ours = ours
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._ours, 1 << 16):
                self._written += piece
        except OSError:
            pass  # the other end is closed

    @property
    def written(self) -> str:
        return self._written.decode("utf-8", "replace")

    def forget(self) -> None:
        self._written.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)


def _watch(daemon: DaemonProcess, columns: int = 80, term: str = "xterm-256color") -> Terminal:
    command = (sys.executable, "-m", "streamerd.cli.main", "status", "--watch")
    return Terminal(*command, "--socket", daemon.socket, columns=columns, term=term)


@pytest.mark.parametrize("columns", [80, 120])
def test_a_watch_shows_sixty_shards_with_totals_and_ends_with_ctrl_c(
    streamerd: DaemonProcess, tmp_path: Path, columns: int
) -> None:
    write_model(tmp_path / "m", shards=60, blocks=1)
    with RawClient(streamerd.socket) as client, _watch(streamerd, columns) as terminal:
        client.open(str(tmp_path / "m")).await_grants(8)
        eventually(lambda: " of 60" in terminal.written)
        terminal.forget()
        eventually(lambda: "totals" in terminal.written)
        assert "memory" in terminal.written
        assert "m-59.safetensors" not in terminal.written
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(10) == 0


def test_a_watch_tells_a_stop_from_a_death_and_sees_the_next_daemon(
    streamerd: DaemonProcess,
) -> None:
    with _watch(streamerd) as terminal:
        eventually(lambda: "totals" in terminal.written)
        streamerd.stop()
        eventually(lambda: "has stopped" in terminal.written)
        terminal.forget()
        streamerd.start()
        eventually(lambda: f"pid {streamerd.pid}" in terminal.written)
        terminal.forget()
        streamerd.kill()
        eventually(lambda: "it died or hangs" in terminal.written)
        assert terminal.process.poll() is None


def test_a_dumb_terminal_gets_lines_without_escapes(streamerd: DaemonProcess) -> None:
    with _watch(streamerd, term="dumb") as terminal:
        eventually(lambda: terminal.written.count("read 0 B/s, served 0 B/s") >= 2)
        assert "\x1b" not in terminal.written
