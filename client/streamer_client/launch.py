"""Which way to a checkpoint: a running daemon, one started for this user, or none (`mode`).

Owns the meaning of INTERFACE's `mode` for the client, and which places are tried for a daemon of
this user's own. Starting one is left to `own_daemon.py`, whom to believe to `trust.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from streamer_client.client import Client, DaemonOpener, DirectOpener, daemon_client, direct_client
from streamer_client.connect.connection import Connection
from streamer_client.connect.link import RECONNECT_S, Link
from streamer_client.connect.open_request import OpenRequest
from streamer_client.connect.own_daemon import (
    UnusablePlace,
    check_room_for_socket,
    launch_lock,
    private_directory,
    start_daemon,
)
from streamer_client.connect.requests import Admin
from streamer_client.connect.trust import SocketPlace, find_socket
from streamer_client.contract.errors import (
    ConfigError,
    DaemonUnavailable,
    MemoryLimitError,
    ProtocolMismatch,
    RequestRefused,
    SourceForbidden,
    SourceNotFound,
    StreamerError,
    UntrustedSocket,
)
from streamer_client.contract.socket import socket_candidates

if TYPE_CHECKING:
    from streamer_client.copy.feed import Feed

log = logging.getLogger(__name__)

MODE_ENV: Final = "STREAMERD_MODE"
MODES: Final = ("auto", "required", "direct")

# What a daemon may refuse although this process can read the files itself: it is another user, in
# another mount namespace, or has no room.
_READ_OURSELVES: Final = (
    DaemonUnavailable,
    MemoryLimitError,
    RequestRefused,
    SourceForbidden,
    SourceNotFound,
)


def open_client(
    mode: str | None = None,
    socket: str | None = None,
    label: str = "",
    reconnect_s: float = RECONNECT_S,
    environ: Mapping[str, str] = os.environ,
) -> Client:
    """A client of the mode asked for; `Checkpoint.stats.mode` tells which way a load took.

    Args:
        mode: `auto`, `required` or `direct`; by default `$STREAMERD_MODE`, else `auto`.
        socket: the daemon's socket; by default as INTERFACE says.
        label: what `streamerctl status` shows for this client.
        reconnect_s: how long a load looks for a new daemon when its own dies.
        environ: what names credentials and endpoints of sources.

    Raises:
        ConfigError: no such mode.
        DaemonUnavailable: mode `required`, and nothing answers, or who does is not trusted.
        ProtocolMismatch: mode `required`, and the daemon is of another version.
    """
    chosen = mode or os.environ.get(MODE_ENV) or "auto"
    place = find_socket(os.environ, os.geteuid(), socket)
    match chosen:
        case "direct":
            return direct_client(environ)
        case "required":
            return daemon_client(place.path, label, reconnect_s, environ)
        case "auto":
            return _auto_client(place, label, reconnect_s, environ)
        case _:
            raise ConfigError(f"mode is {chosen!r}; it is one of {', '.join(MODES)}")


def _auto_client(
    place: SocketPlace, label: str, reconnect_s: float, environ: Mapping[str, str]
) -> Client:
    try:
        link = _link_to_any(place, label, reconnect_s)
    except (DaemonUnavailable, ProtocolMismatch, RequestRefused, ConfigError, OSError) as error:
        log.warning("event=no_daemon mode=direct reason=%r", str(error))
        return direct_client(environ)
    return Client(_AutoOpener(link, environ), Admin(link))


def _link_to_any(place: SocketPlace, label: str, reconnect_s: float) -> Link:
    """To the daemon that runs, else to this user's own, started by the first who asks."""
    try:
        return Link(place.path, label, reconnect_s)
    except UntrustedSocket as error:
        log.warning("event=place_not_used socket=%s reason=%r", place.path, str(error))
    except (DaemonUnavailable, RequestRefused) as error:
        log.info("event=starting_daemon reason=%r", str(error))
    own = (place.path,) if place.named else socket_candidates(os.environ, os.geteuid())
    return Link(_own_socket(own), label, reconnect_s)


def _own_socket(places: Sequence[str]) -> str:
    """The first place where this user's daemon answers, or could be and is then started.

    Raises:
        DaemonUnavailable: there is no such place, or the daemon does not come up.
    """
    reasons = []
    for socket_path in places:
        try:
            return _served(socket_path)
        except (UnusablePlace, UntrustedSocket, RequestRefused, ConfigError) as error:
            log.warning("event=place_not_used socket=%s reason=%r", socket_path, str(error))
            reasons.append(str(error))
    raise DaemonUnavailable("; ".join(reasons))


def _served(socket_path: str) -> str:
    directory = os.path.dirname(socket_path)
    private_directory(directory)
    with launch_lock(directory) as folder:
        if not _answers(socket_path):
            check_room_for_socket(socket_path, folder)
            start_daemon(socket_path)
    return socket_path


def _answers(socket_path: str) -> bool:
    try:
        Connection.to(socket_path).close()
    except UntrustedSocket:
        raise
    except DaemonUnavailable:
        return False
    return True


class _AutoOpener:
    """Opens through the daemon, and in this process what the daemon will not or cannot serve."""

    def __init__(self, link: Link, environ: Mapping[str, str]) -> None:
        self._daemon = DaemonOpener(link, environ, without_memory=True)
        self._direct = DirectOpener(environ)

    def feed(self, request: OpenRequest) -> Feed:
        try:
            return self._daemon.feed(request)
        except _READ_OURSELVES as error:
            try:
                feed = self._direct.feed(request)
            except StreamerError as own_error:
                raise own_error from error
            log.warning("event=reading_directly source=%r reason=%r", request.source, str(error))
            return feed

    def close(self) -> None:
        self._daemon.close()
