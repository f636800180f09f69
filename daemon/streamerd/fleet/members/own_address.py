"""Finds the address at which other nodes reach this one. Used in the fleet's process."""

from __future__ import annotations

import ipaddress
import socket

from streamerd.settings.fleet import join_address, split_address


def is_own(host: str) -> bool:
    """Whether an IP address belongs to an interface of this process's network namespace."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0))  # the kernel refuses an address that no interface has
        except OSError:
            return False
    return True


def reached_from(listen: str, other: str, port: int) -> str:
    """The address to announce for `listen`.

    This is `listen` itself. Where `listen` means all interfaces, it is the address from which this
    machine reaches `other`.

    Args:
        listen: the IP address on which this node listens.
        other: a host that every member reaches, such as etcd's.
        port: a port of that host.

    Raises:
        OSError: there is no way to that host.
    """
    host, own_port = split_address(listen)
    if not ipaddress.ip_address(host).is_unspecified:
        return listen
    family, kind, protocol, _, address = socket.getaddrinfo(other, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)  # a UDP socket sends nothing here, and only looks up the route
        return join_address(probe.getsockname()[0], own_port)
