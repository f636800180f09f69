"""A real DNS server that answers for one name, as a headless Service of Kubernetes does."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.support.waiting import eventually

READY_S: Final = 20.0


@contextlib.contextmanager
def dns_server(
    folder: Path, address: str, name: str, hosts: Sequence[str], before: Sequence[str]
) -> Iterator[Path]:
    """Answer with the addresses of `hosts` for a name.

    Args:
        folder: folder for the file of addresses, and for the client's configuration.
        address: address to listen on, at DNS's own port.
        name: the name that it answers for.
        hosts: the addresses behind the name.
        before: a command that enters the namespace with that address.

    Yields:
        A file to mount over /etc/resolv.conf, so that programs ask this server.
    """
    addresses, resolver = folder / "addresses", folder / "resolv.conf"
    addresses.write_text("".join(f"{host} {name}\n" for host in hosts))
    resolver.write_text(f"nameserver {address}\n")
    command = (
        *before, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
        "--pid-file=", "--bind-interfaces", f"--listen-address={address}", "--except-interface=lo",
        "--no-resolv", "--no-hosts", f"--addn-hosts={addresses}", "--local=/example/",
    )  # fmt: skip
    process = subprocess.Popen(command)
    try:
        eventually(lambda: _answers(address, before), READY_S, "the DNS server answers")
        yield resolver
    finally:
        process.terminate()
        process.wait(10)


def _answers(address: str, before: Sequence[str]) -> bool:
    """Whether somebody accepts connections at DNS's port, as dnsmasq also answers by TCP."""
    ask = f"import socket; socket.create_connection(({address!r}, 53), 5).close()"
    command = [*before, sys.executable, "-c", ask]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
