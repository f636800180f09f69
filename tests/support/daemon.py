"""A real daemon for one test: a process, its socket, its log.

Owns start (by the ready pipe), stop and the log. Requests to the daemon go through `raw_client.py`
or the client library.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from streamer_client.contract.messages import GetStatus, Status
from streamerd.control.instance import read_instance
from tests.support.leaks import SHM_DIR
from tests.support.raw_client import RawClient

BLOCK: Final = 64 << 10
OBEYS_FILE_MODES: Final = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.getuid() == 0 else ()
)
"""Runs a command without the capabilities by which root may read every file."""
READY_S: Final = 30.0
STOP_S: Final = 15.0
REPOSITORY: Final = Path(__file__).parents[2]


class DaemonProcess:
    """`python -m streamerd` on its own socket; it may be started again after its end.

    Args:
        socket_path: path of the control socket.
        flags: further flags; the defaults are small blocks and a limit of 16 of them.
        before: a command that ends by executing the daemon's, such as `unshare`.
    """

    def __init__(
        self,
        socket_path: Path,
        *flags: str,
        before: Sequence[str] = (),
    ) -> None:
        self.socket = str(socket_path)
        self.log_path = socket_path.with_suffix(".log")
        self._flags = (
            f"--block-size={BLOCK}",
            f"--memory-limit={16 * BLOCK}",
            "--workers=1",
            "--threads=2",
            *flags,
        )
        self._before = tuple(before)
        self._process: subprocess.Popen[bytes] | None = None
        self._instance = ""

    def drop_flag(self, name: str) -> None:
        """Leave out a flag that has no value, from the next start on."""
        self._flags = tuple(flag for flag in self._flags if not flag.startswith(name))

    def replace_flag(self, flag: str) -> None:
        """Give a flag another value from the next start on."""
        self.drop_flag(flag.partition("=")[0])
        self._flags = (*self._flags, flag)

    # --- life -----------------------------------------------------------------------------------

    def start(self) -> DaemonProcess:
        """Start, and return once it answers."""
        read_end, write_end = os.pipe()
        try:
            self._spawn(write_end)
            os.close(write_end)
            write_end = -1
            readable, _, _ = select.select([read_end], [], [], READY_S)
            ready = readable and os.read(read_end, 16) == b"READY\n"
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)
        if not ready:
            self.kill()
            raise AssertionError(f"the daemon did not start:\n{self.log}")
        assert self.instance
        return self

    def _spawn(self, ready_fd: int) -> None:
        command = [*self._before, sys.executable, "-m", "streamerd", f"--socket={self.socket}"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, f"--ready-fd={ready_fd}", *self._flags],
                pass_fds=[ready_fd],
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def run_to_its_end(self) -> int:
        """Start a daemon that cannot serve, and return its exit code."""
        with open(os.devnull, "wb") as nowhere:
            self._spawn(nowhere.fileno())
        return self.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "start it first"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        return self.process.wait(STOP_S)

    def stop(self) -> int:
        """Ask the daemon to end, and return its exit code."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> None:
        """Kill the daemon at once, as the kernel's OOM killer would."""
        self.process.kill()
        self.wait()

    def end(self) -> None:
        """End the daemon and remove what it left, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        # A daemon leaves its slabs for the next one, and a killed daemon leaves its socket too.
        for name in self.segments():
            os.unlink(SHM_DIR / name)
        shutil.rmtree(self.sidecars, ignore_errors=True)

    # --- what it shows --------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def instance(self) -> str:
        """The instance noted beside the socket, or the last known one if the note is gone."""
        path = self.socket
        if self._process is not None and self._process.poll() is None:
            path = f"/proc/{self.pid}/root{path}"  # the daemon may be in another mount namespace
        self._instance = read_instance(path) or self._instance
        return self._instance

    @property
    def sidecars(self) -> Path:
        """The folder of the daemon's sidecars."""
        return Path(self.socket + ".slabs")

    def segments(self) -> list[str]:
        """The names of the daemon's slabs in /dev/shm."""
        instance = self.instance
        if not instance:
            return []
        return [name for name in os.listdir(SHM_DIR) if f".{instance}." in name]

    def allocated_bytes(self) -> int:
        """The memory of all of the daemon's slabs, as the kernel counts it."""
        total = 0
        for name in self.segments():
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(SHM_DIR / name).st_blocks * 512
        return total

    def status(self) -> dict[str, Any]:
        with RawClient(self.socket, "status") as client:
            return client.request(GetStatus(client.next_id()), Status).body

    def totals(self) -> dict[str, int]:
        totals: dict[str, int] = self.status()["totals"]
        return totals

    def reads_under_way(self) -> int:
        """How many blocks workers still have to bring or to make room for.

        While nothing is being evicted, these are the used bytes that are not resident.
        """
        status = self.status()
        shards = [shard for source in status["sources"] for shard in source["shards"]]
        resident_bytes = sum(shard["resident_bytes"] for shard in shards)
        return int(status["memory"]["used_bytes"] - resident_bytes) // BLOCK

    def shards(self) -> dict[str, dict[str, Any]]:
        """The status of each shard of all sources, by its URI."""
        return {row["uri"]: row for source in self.status()["sources"] for row in source["shards"]}


class Daemons:
    """Makes daemons for a test, and ends them all after it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._made: list[DaemonProcess] = []

    def socket_path(self) -> Path:
        return self.directory / f"{len(self._made)}.sock"

    def make(
        self,
        *flags: str,
        socket_path: Path | None = None,
        before: Sequence[str] = (),
    ) -> DaemonProcess:
        """Make a daemon that is not started yet."""
        path = socket_path or self.socket_path()
        daemon = DaemonProcess(path, *flags, before=before)
        self._made.append(daemon)
        return daemon

    def start(self, *flags: str, before: Sequence[str] = ()) -> DaemonProcess:
        return self.make(*flags, before=before).start()

    def end(self) -> None:
        for daemon in self._made:
            daemon.end()


@contextlib.contextmanager
def daemons() -> Iterator[Daemons]:
    """A maker of daemons; their logs go to stderr, which pytest shows for failures."""
    # tmp_path is not used: a socket's path must be short, and a test's name may be long.
    directory = Path(tempfile.mkdtemp(prefix="strd-"))
    made = Daemons(directory)
    try:
        yield made
    finally:
        made.end()
        for log in sorted(directory.glob("*.log")):
            sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')}")
        shutil.rmtree(directory)
