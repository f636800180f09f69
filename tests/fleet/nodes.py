"""The nodes of a fleet, each with a host and a /dev/shm of its own, and the objects
that they load.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fleet.network import Host
from tests.support.daemon import DaemonProcess
from tests.support.fleet_nodes import fleet_of, read
from tests.support.waiting import eventually
from tests.support.worlds import World, processes_of

BLOCK_BYTES: Final = 1 << 20
MODEL_BYTES: Final = 128 << 20
FLAGS: Final = (f"--block-size={BLOCK_BYTES}", f"--memory-limit={MODEL_BYTES + (32 << 20)}")
JOIN_S: Final = 30.0
PORT: Final = 7000


class Node:
    """A host and its daemon."""

    def __init__(
        self, host: Host, folder: Path, flags: Sequence[str], bound: Sequence[tuple[Path, Path]]
    ) -> None:
        self.host = host
        self.address = f"{host.address}:{PORT}"
        world = World(bound=tuple(bound), pids=True).enter()
        listen = f"--fleet-listen={self.address}"
        self.daemon = DaemonProcess(
            folder / f"{host.address}.sock", *FLAGS, listen, *flags, before=[*host.enter(), *world]
        )

    def load(self, uri: str, environ: Mapping[str, str]) -> bytes:
        """All bytes of an object, through this node's daemon."""
        (data,) = read(self.daemon, uri, environ)
        return data

    def resident_bytes(self, uri: str) -> int:
        """Bytes of an object that this node has in memory."""
        row = self.daemon.shards().get(uri)
        return int(row["resident_bytes"]) if row else 0

    def members(self) -> set[str]:
        """The members that this node knows."""
        return set(fleet_of(self.daemon)["members"])

    def kill(self) -> None:
        """Kill the daemon and all processes that it started, as when a machine loses its power."""
        for pid in processes_of(self.daemon.pid):
            # The kernel ends the processes that the daemon started together with the daemon, so
            # some may be gone already.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemon.wait()

    def stop(self) -> None:
        """Stop the daemon and all processes that it started, as on a machine that hangs."""
        for pid in processes_of(self.daemon.pid):
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for pid in processes_of(self.daemon.pid):
            os.kill(pid, signal.SIGCONT)


@dataclass(slots=True)
class Loads:
    """Loads of one object by several nodes at once."""

    futures: dict[Node, Future[bytes]]
    ended_s: dict[Node, float]

    def of(self, nodes: Sequence[Node]) -> list[bytes]:
        """The bytes that these nodes got."""
        return [self.futures[node].result(120) for node in nodes]

    def longest_s(self, nodes: Sequence[Node]) -> float:
        """The seconds that the last of these nodes took."""
        self.of(nodes)
        return max(self.ended_s[node] for node in nodes)


def load_at_once(
    pool: ThreadPoolExecutor, nodes: Sequence[Node], uri: str, environ: Mapping[str, str]
) -> Loads:
    began_s, ended_s = time.monotonic(), {}

    def load(node: Node) -> bytes:
        data = node.load(uri, environ)
        ended_s[node] = time.monotonic() - began_s
        return data

    return Loads({node: pool.submit(load, node) for node in nodes}, ended_s)


def know_each_other(nodes: Sequence[Node]) -> None:
    """Wait until each of these nodes knows all of them and no other node."""
    everyone = {node.address for node in nodes}
    eventually(_all_know(nodes, everyone), JOIN_S, "the nodes know each other")


def _all_know(nodes: Sequence[Node], everyone: set[str]) -> Callable[[], bool]:
    return lambda: all(node.members() == everyone for node in nodes)
