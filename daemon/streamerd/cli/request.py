"""The requests of one streamerctl command, over one connection to the daemon.

streamerctl is a client like any other: `streamer_client.connecting.requests` makes the requests,
and hands over the files that belong to them. This module owns the connection, and the error text
for a user who may not open the socket. Its calls block; the connection's own thread sends
heartbeats.
"""

from __future__ import annotations

import grp
import os
import pwd
from types import TracebackType
from typing import Final, NamedTuple, Self

from streamer_client.connecting.connection import Connection
from streamer_client.connecting.requests import Admin
from streamer_client.contract.errors import DaemonUnavailable, RequestRefused
from streamerd.cli.doctor.ask_place import ask_place
from streamerd.cli.doctor.place import REMEDIES, Place

GREETING_TIMEOUT_S: Final = 5.0
"""How long the command waits for each answer of the greeting. Afterwards heartbeats tell whether
the daemon lives."""


class _OneConnection(NamedTuple):
    """A link whose connection is never made anew: if the daemon ends, so does the command."""

    socket_path: str
    connection: Connection


class Requester(Admin):
    """A connection for a few requests; a context manager.

    Raises:
        DaemonUnavailable: no process listens or answers in time, the listener is not to be trusted,
            or this user may not open the socket.
        RequestRefused: the daemon takes no further client.
        ProtocolMismatch: the daemon speaks another version.
    """

    def __init__(self, socket_path: str, timeout_s: float = GREETING_TIMEOUT_S) -> None:
        self._connection = _connected(socket_path, timeout_s)
        super().__init__(_OneConnection(socket_path, self._connection))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._connection.stop()


def _connected(socket_path: str, timeout_s: float) -> Connection:
    try:
        return Connection.to(socket_path, "streamerctl", timeout_s)
    except RequestRefused as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
        raise DaemonUnavailable(
            f"no permission to connect to {socket_path}; {_how_to_join(socket_path)}, or choose "
            "another daemon with --socket or STREAMERD_SOCKET"
        ) from error


def _how_to_join(socket_path: str) -> str:
    """How this user becomes a member of the socket's group, at the place of this process."""
    try:
        gid = os.stat(socket_path).st_gid
        place = ask_place(os.environ)
        if place is Place.NODE:
            group, user = grp.getgrgid(gid).gr_name, pwd.getpwuid(os.getuid()).pw_name
        else:  # the user or the group may have no name here, and needs none
            group = user = ""
    except (OSError, KeyError):
        return "run as a user of its group"
    return REMEDIES[place].join.format(group=group, gid=gid, user=user)
