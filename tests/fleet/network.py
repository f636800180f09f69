"""A network for one test session: hosts in namespaces of their own, on one bridge.

`tbf` on both ends of its cable limits each host, and the store, to sending and receiving `RATE`.
The bridge lies in a namespace too, so that the machine's own network does not change.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

RATE: Final = "200mbit"
RATE_BYTES: Final = 200_000_000 // 8
"""`RATE` in bytes a second."""
HUB_ADDRESS: Final = "10.77.0.254"
"""The address at which the members' engine listens: in the namespace of the bridge, without a cap.
"""
_SHAPE: Final = ("root", "tbf", "rate", RATE, "burst", "256k", "latency", "400ms")


_TOOLS: Final = (
    ("ip", "iproute2"), ("tc", "iproute2"), ("etcd", "etcd-server"), ("dnsmasq", "dnsmasq-base"),
)  # fmt: skip
"""The programs that the tests need, each with Debian's package."""


def needs_network() -> pytest.MarkDecorator:
    """A mark for tests that make hosts and a members' engine."""
    return pytest.mark.skipif(bool(why := _why_not()), reason=why or "can make hosts")


@functools.cache
def _why_not() -> str:
    if os.getuid() != 0:
        return "needs root: it makes network namespaces"
    for tool, package in _TOOLS:
        if shutil.which(tool) is None:
            return f"needs `{tool}` (Debian's {package})"
    tried = subprocess.run(["unshare", "-mn", "true"], capture_output=True, check=False)
    return "needs the right to make namespaces (CAP_SYS_ADMIN)" if tried.returncode else ""


class Host:
    """A namespace with one network card, `eth0`."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self.address = f"10.77.0.{number}"
        self.space = f"{network.prefix}-{name}"
        self.cable = f"v{number}-{os.getpid()}"[:15]
        self._hub = network.hub

    def plug_in(self) -> None:
        _run("ip", "netns", "add", self.space)
        _run(
            "ip", "-n", self._hub, "link", "add", self.cable,
            "type", "veth", "peer", "name", "eth0", "netns", self.space,
        )  # fmt: skip
        _run("ip", "-n", self._hub, "link", "set", self.cable, "master", "bridge", "up")
        _run("ip", "-n", self.space, "address", "add", f"{self.address}/24", "dev", "eth0")
        _run("ip", "-n", self.space, "link", "set", "eth0", "up")
        _run("ip", "-n", self.space, "link", "set", "lo", "up")
        _run("tc", "-n", self._hub, "qdisc", "add", "dev", self.cable, *_SHAPE)
        _run("tc", "-n", self.space, "qdisc", "add", "dev", "eth0", *_SHAPE)

    def cut_off(self) -> None:
        """Pull the cable: nothing arrives any more, and no side is told."""
        _run("ip", "-n", self._hub, "link", "set", self.cable, "down")

    def connect(self) -> None:
        """Put the cable back."""
        _run("ip", "-n", self._hub, "link", "set", self.cable, "up")

    def enter(self) -> list[str]:
        """A command that enters this host and executes the words that follow."""
        return ["ip", "netns", "exec", self.space]


class Network:
    """The bridge and its hosts."""

    def __init__(self) -> None:
        self.hub_address = HUB_ADDRESS
        self.prefix = f"strd{os.getpid()}"
        self.hub = f"{self.prefix}-hub"
        self.store = Host(self, "store", 250)
        self.nodes = [Host(self, f"node{number}", number) for number in range(1, 5)]

    def make(self) -> None:
        _run("ip", "netns", "add", self.hub)
        _run("ip", "-n", self.hub, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", self.hub, "address", "add", f"{HUB_ADDRESS}/24", "dev", "bridge")
        _run("ip", "-n", self.hub, "link", "set", "bridge", "up")
        _run("ip", "-n", self.hub, "link", "set", "lo", "up")
        for host in (self.store, *self.nodes):
            host.plug_in()

    def remove(self) -> None:
        for space in (self.store.space, *(node.space for node in self.nodes), self.hub):
            if Path("/run/netns", space).exists():
                _run("ip", "netns", "delete", space)

    def enter_hub(self) -> list[str]:
        """A command that enters the bridge's namespace and executes the words that follow."""
        return ["ip", "netns", "exec", self.hub]


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    made = Network()
    try:
        made.make()
        yield made
    finally:
        made.remove()
