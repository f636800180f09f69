"""Where no request of anybody's goes: to the metadata services of clouds.

They give credentials of a *machine* to whoever asks from it. A daemon that reads for others would
ask in its own name, by an endpoint or URL that a client gives; the same holds for a client's
process that reads a source somebody else named. What a name resolves to is known only once it is
connected, so the connection's peer is looked at, before anything is sent.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from streamer_client.contract.errors import SourceForbidden

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

CLOSED: Final[tuple[Network, ...]] = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # link-local: Amazon (also ECS, EKS), Google, Azure, Oracle
            "fe80::/10",  # the same in IPv6
            "fd00:ec2::/32",  # Amazon
            "fd20:ce::/32",  # Google
            "168.63.129.16/32",  # Azure's host
            "100.100.100.200/32",  # Alibaba
        ),
    )
)


def is_closed(address: str) -> bool:
    """Whether no request goes to this IP address."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found in network for network in CLOSED if network.version == found.version)


def check_peer(about: str, connected: socket.socket) -> None:
    """Look whom a connection leads to.

    Args:
        about: what is asked for, for the error.
        connected: a TCP connection.

    Raises:
        SourceForbidden: a place where metadata services are.
    """
    address = str(connected.getpeername()[0])
    if is_closed(address):
        raise SourceForbidden(
            f"{about}: its host is {address}, where clouds keep the credentials of machines; "
            "nothing is read from there. Give the store's own address"
        )
