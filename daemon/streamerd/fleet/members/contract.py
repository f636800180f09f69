"""The interface that each engine of membership implements, and its bounds."""

from __future__ import annotations

import ipaddress
from typing import Final, Protocol

from streamerd.settings.fleet import split_address

MOST_MEMBERS: Final = 4096
"""The most members that a node knows. Others are left out, so that a list that anybody can grow
does not fill a node's memory."""
MOST_ADDRESS_CHARACTERS: Final = 64


class MembersFailed(Exception):
    """The engine did not answer, or refused. `book.py` asks again after a pause."""


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
        """Wait for `wait_s` seconds, or until the engine says that the members changed."""
        ...

    def leave(self) -> None:
        """Take this node out of the fleet, and end a call of `wait`. Any thread may call this."""
        ...


def is_address(text: str) -> bool:
    """Whether a text from an engine can be a member's address: an IP address with a port."""
    if len(text) > MOST_ADDRESS_CHARACTERS:
        return False
    try:
        host, port = split_address(text)
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return bool(port) and "%" not in host  # an address with a zone is valid on one node only
