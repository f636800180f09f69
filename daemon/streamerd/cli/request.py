"""One conversation of streamerctl with the daemon: a client's connection, and requests in words.

streamerctl is a client like any other: it opens local files itself and hands them over. Blocking;
the connection's own thread keeps it alive meanwhile.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from streamer_client.connect.connection import Connection
from streamer_client.connect.requests import handed_over
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    RequestRefused,
    SourceNotFound,
)
from streamer_client.contract.messages import Message, Verifying
from streamer_client.contract.uris import is_remote

ANSWER_TIMEOUT_S: Final = 5.0
"""For each greeting; afterwards heartbeats tell whether the daemon lives."""

Answer = TypeVar("Answer", bound=Message)


class Requester:
    """A connection for a few requests; a context manager.

    Raises:
        DaemonUnavailable: nobody listens, nobody answers in time, who does is not to be trusted, or
            this user may not open the socket.
        RequestRefused: the daemon takes no further client.
        ProtocolMismatch: the daemon speaks another version.
    """

    def __init__(self, socket_path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self._path = socket_path
        self._connection = _connected(socket_path, timeout_s)
        self._ids = count(1)

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
        """Give the connection back."""
        self._connection.stop()

    def next_id(self) -> int:
        """A number for a request; the connection gives it another one of its own."""
        return next(self._ids)

    @contextlib.contextmanager
    def handed_over(
        self, sources: Sequence[str], pattern: str | None = None, *, optional: bool = False
    ) -> Iterator[int]:
        """See `admin.handed_over`.

        Raises:
            SourceNotFound: nothing of them is in memory, as far as this user can tell.
        """
        with handed_over(self._connection, sources, pattern, optional=optional) as transfer:
            try:
                yield transfer
            except SourceNotFound as error:
                if transfer or all(is_remote(source) for source in sources):
                    raise
                raise SourceNotFound(
                    f"{error}; what another user loaded is found by who can open its files, and "
                    "this user can open none of them"
                ) from error

    def ask(
        self,
        request: Message,
        answer: type[Answer],
        progress: Callable[[Verifying], None] | None = None,
    ) -> Answer:
        """Send a request and wait for its answer; `progress` hears of what comes before.

        Raises:
            StreamerError: what the daemon answered `Failed` with, as the class that it was there.
        """
        message = self._connection.request(
            lambda number: msgspec.structs.replace(request, request_id=number), progress=progress
        )
        if not isinstance(message, answer):
            raise ProtocolMismatch(
                f"asked {type(request).__name__}, and the daemon at {self._path} answered "
                f"{type(message).__name__}; install the same version of streamerd on both sides"
            )
        return message


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
    """What makes this user a member of the socket's group."""
    try:
        group = grp.getgrgid(os.stat(socket_path).st_gid).gr_name
        user = pwd.getpwuid(os.getuid()).pw_name
    except (OSError, KeyError):
        return "run as a user of its group"
    return f"join its group with `sudo usermod -aG {group} {user}` and log in again"
