"""Nodes that share only a network, made of namespaces of this machine.

Each node has its own network, mount and ipc namespace and its own /dev/shm. As on nodes of a
cluster, each finds its own folder at a path that is the same on all. They see the rest of this
machine's file system as if it were a network file system.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.support.worlds import needs_root

_ADDRESS: Final = "10.99.0.{0}"
_INTERFACE: Final = "node{0}"
_ENDS_WITH_US: Final = ("setpriv", "--pdeathsig=KILL")
"""Kills the namespaces' processes if the test is killed."""
_HOLD: Final = """
set -e
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind {own} {at}
ip link set lo up
echo ready
exec sleep infinity
"""


class NetworkedNode(NamedTuple):
    """One node."""

    pid: int
    """The pid of the process that keeps the node's namespaces."""
    address: str
    interface: str
    own: Path
    """This machine's path of the folder that the node finds at the common path."""

    def enter(self) -> list[str]:
        """A command that enters the node and executes the words that follow."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--ipc", "--wd=.", "--"]


@contextlib.contextmanager
def two_nodes(directory: Path, at: Path) -> Iterator[list[NetworkedNode]]:
    """Two nodes with a cable between them.

    Args:
        directory: directory for the folders of the nodes.
        at: the path at which each node finds its own folder.
    """
    with contextlib.ExitStack() as held:
        nodes = [_node(held, number, directory, at) for number in (1, 2)]
        first, second = nodes
        _run(
            *first.enter(), "ip", "link", "add", first.interface, "type", "veth",
            "peer", "name", second.interface, "netns", str(second.pid),
        )  # fmt: skip
        for node in nodes:
            _run(*node.enter(), "ip", "address", "add", f"{node.address}/24", "dev", node.interface)
            _run(*node.enter(), "ip", "link", "set", node.interface, "up")
        yield nodes


def _node(held: contextlib.ExitStack, number: int, directory: Path, at: Path) -> NetworkedNode:
    own = directory / _INTERFACE.format(number)
    own.mkdir()
    script = _HOLD.format(own=shlex.quote(str(own)), at=shlex.quote(str(at)))
    holder = held.enter_context(
        subprocess.Popen(
            [*_ENDS_WITH_US, "unshare", "--net", "--mount", "--ipc", "sh", "-c", script],
            stdout=subprocess.PIPE, text=True,
        )
    )  # fmt: skip
    held.callback(holder.kill)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    return NetworkedNode(holder.pid, _ADDRESS.format(number), _INTERFACE.format(number), own)


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


def needs_a_network() -> pytest.MarkDecorator:
    """A mark for tests that make networks."""
    root = needs_root()
    if root.args[0]:
        return root
    return pytest.mark.skipif(bool(why := _why_not()), reason=why or "can make networks")


@functools.cache
def _why_not() -> str:
    if shutil.which("ip") is None:
        return "needs `ip` (iproute2)"
    words = ["unshare", "--net", "ip", "link", "add", "tried1", "type", "veth"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"cannot make networks here: {tried.stderr.strip()}" if tried.returncode else ""
