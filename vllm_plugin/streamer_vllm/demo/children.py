"""Child processes of the demo: each has its own log, and none outlives the demo.

Owns start, end and the tail of the log that an error shows. Runs in the demo's only thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

TAIL_LINES: Final = 25
STOP_GRACE_S: Final = 60.0
POLL_S: Final = 0.1


class DemoFailed(Exception):
    """A step did not work; the text names the step and shows the end of its program's log."""


class Child:
    """A running program; leaving its `with` block ends it and everything that it started."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log_path: str,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._log_path = log_path
        with open(log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=pass_fds,
                start_new_session=True,  # the demo passes Ctrl-C on, and finds children
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Raise DemoFailed if the program has ended."""
        status = self._process.poll()
        if status is not None:
            raise self.failure(f"ended with status {status}")

    def wait(self, timeout_s: float) -> None:
        """Wait until the program ends without error."""
        try:
            status = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise self.failure(f"has not ended after {timeout_s:.0f} s") from error
        if status:
            raise self.failure(f"ended with status {status}")

    def failure(self, what: str) -> DemoFailed:
        """An error about this program, with the end of its log."""
        tail = "\n".join(f"    {line}" for line in self.log().splitlines()[-TAIL_LINES:])
        return DemoFailed(f"{self.name} {what}; the end of {self._log_path}:\n{tail}")

    def log(self) -> str:
        """Everything that the program has written so far."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def stop(self) -> None:
        """Ask the program to end, then kill it after a while, with everything of its session."""
        if self._process.poll() is None:
            self._process.terminate()
        deadline_s = time.monotonic() + STOP_GRACE_S
        # Its own children come first: they remove what they shared, and may end after the program.
        while self._session_lives() and time.monotonic() < deadline_s:
            time.sleep(POLL_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _session_lives(self) -> bool:
        self._process.poll()  # a zombie would count as alive
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True
