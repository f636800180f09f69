"""Members by DNS: the addresses behind one name, such as a headless Service of Kubernetes.

Kubernetes lists a pod's address under this name while the pod is ready, so this node does not
announce itself. Runs in the thread of `book.py`.
"""

from __future__ import annotations

import ipaddress
import socket
import threading

from streamerd.fleet.members.contract import MOST_MEMBERS, MembersFailed, is_address
from streamerd.fleet.members.own_address import is_own
from streamerd.settings.fleet import DnsMembers, join_address, split_address


class DnsSource:
    """Asks for the addresses of a name.

    Args:
        where: the name, and the port on which all members listen.
        listen: the address on which this node listens.
    """

    def __init__(self, where: DnsMembers, listen: str) -> None:
        self._where = where
        self._left = threading.Event()
        host, _ = split_address(listen)
        self._me = "" if ipaddress.ip_address(host).is_unspecified else listen

    @property
    def me(self) -> str:
        """This node's address; empty until it was found among the addresses of the name."""
        return self._me

    def look(self) -> frozenset[str]:
        """Resolve the name to the addresses of the members; see `contract.Members`."""
        where = self._where
        try:
            found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise MembersFailed(f"{where.host}: {error}") from error
        hosts = sorted({str(address[0]) for *_, address in found})
        if not self._me:
            own = next((host for host in hosts if is_own(host)), None)
            self._me = join_address(own, where.port) if own else ""
        listed = (join_address(host, where.port) for host in hosts[:MOST_MEMBERS])
        return frozenset(filter(is_address, listed))

    def wait(self, wait_s: float) -> None:
        """Wait for the whole time, since DNS tells of no change; see `contract.Members`."""
        self._left.wait(wait_s)

    def leave(self) -> None:
        """End a call of `wait`; see `contract.Members`."""
        self._left.set()
