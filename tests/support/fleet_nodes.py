"""Daemons of one fleet on this machine, each with its own socket, slabs and address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.certificates import Authority
from tests.support.daemon import BLOCK, DaemonProcess, Daemons
from tests.support.etcd import free_port
from tests.support.raw_client import RawClient
from tests.support.waiting import eventually

FLEET: Final = "test"
SOURCE: Final = "s3://models/llama"
JOIN_S: Final = 20.0
FLEET_PROCESS: Final = "streamerd-fleet"
"""The name of the process that serves other nodes."""


class Nodes:
    """Starts daemons that find each other."""

    def __init__(
        self, maker: Daemons, members: str, *flags: str, before: Sequence[str] = ()
    ) -> None:
        self._maker = maker
        self._before = before
        self._flags = (
            f"--fleet={FLEET}",
            f"--fleet-members={members}",
            "--fleet-wait-s=3",
            f"--memory-limit={256 * BLOCK}",
            *flags,
        )
        self.daemons: list[DaemonProcess] = []

    def start(self, *flags: str) -> DaemonProcess:
        """Start one more node, without waiting until the others know it."""
        listen = f"--fleet-listen=127.0.0.1:{free_port()}"
        daemon = self._maker.start(*self._flags, listen, *flags, before=self._before)
        self.daemons.append(daemon)
        return daemon

    def together(self, count: int, *flags: str) -> list[DaemonProcess]:
        """Start so many nodes, and wait until they know each other."""
        for _ in range(count):
            self.start(*flags)
        self.know_each_other()
        return self.daemons

    def know_each_other(self) -> None:
        """Wait until each node has all nodes in its list."""
        count = len(self.daemons)
        eventually(
            lambda: all(len(fleet_of(each)["members"]) == count for each in self.daemons), JOIN_S
        )


def fleet_of(daemon: DaemonProcess) -> dict[str, Any]:
    """The part of a daemon's status that concerns the fleet."""
    fleet: dict[str, Any] = daemon.status()["fleet"]
    return fleet


def read(daemon: DaemonProcess, source: str, environ: Mapping[str, str]) -> list[bytes]:
    """Read all shards of a source through a daemon."""
    with RawClient(daemon.socket) as client:
        load = client.open(source, hold=True, environment=dict(environ))
        return load.read_all()


def certificate_flags(authority: Authority, directory: Path, name: str) -> tuple[str, ...]:
    """Flags of a node whose certificate the authority signed."""
    cert, key = authority.node_files(directory, name)
    return (
        f"--fleet-tls-cert={cert}",
        f"--fleet-tls-key={key}",
        f"--fleet-tls-ca={authority.bundle}",
    )


def fleet_process(daemon: DaemonProcess) -> int:
    """The pid of a daemon's process that serves other nodes."""
    (found,) = (pid for pid in descendants(daemon.pid) if name_of(pid) == FLEET_PROCESS)
    return found


def descendants(pid: int) -> list[int]:
    """All processes that a process started, and those that they started."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += map(int, (task / "children").read_text().split())
    return children + [each for child in children for each in descendants(child)]


def name_of(pid: int) -> str:
    """The name that a process gave itself, as the command lines of forked workers are alike."""
    return Path(f"/proc/{pid}/comm").read_text().strip()
