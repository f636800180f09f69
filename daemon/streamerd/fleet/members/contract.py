"""What each engine of membership does."""

from __future__ import annotations

import ipaddress
from typing import Final, Protocol

from streamerd.settings.fleet import split_address

MOST_MEMBERS: Final = 4096
"""Members beyond this are left out: a list that anybody can grow must not fill a node's memory."""
MOST_ADDRESS_CHARACTERS: Final = 64


class MembersFailed(Exception):
    """The engine did not answer, or refused; asked again after a pause."""


class Members(Protocol):
    """An engine of membership. One thread calls it; each call blocks for a few seconds at most."""

    @property
    def me(self) -> str:
        """This node's address in the list."""
        ...

    def look(self) -> frozenset[str]:
        """Announce this node, or go on doing so, and return the addresses of all members.

        Raises:
            MembersFailed: the engine could not be asked.
        """
        ...

    def wait(self, wait_s: float) -> None:
        """Wait so long, or until the engine says that something changed."""
        ...

    def leave(self) -> None:
        """This node leaves, and nobody waits in `wait` any more; from any thread."""
        ...


def is_address(text: str) -> bool:
    """Whether a text that an engine gave is an address of a member: an IP address with a port."""
    if len(text) > MOST_ADDRESS_CHARACTERS:
        return False
    try:
        host, port = split_address(text)
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return bool(port) and "%" not in host  # an address with a zone means something on one node only
