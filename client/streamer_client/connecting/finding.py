"""Finding the daemon: a running one, or else this user's own, which the first rank starts.

Owns which places are tried for a daemon of this user's own. `own_daemon.py` starts a daemon, and
`trust.py` decides whom to believe. Runs in the caller's thread and may take as long as a daemon
takes to come up.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from streamer_client.connecting.connection import Connection
from streamer_client.connecting.link import Link
from streamer_client.connecting.own_daemon import (
    UnusablePlace,
    check_room_for_socket,
    launch_lock,
    private_directory,
    start_daemon,
)
from streamer_client.connecting.trust import SocketPlace
from streamer_client.contract.errors import (
    ConfigError,
    DaemonUnavailable,
    RequestRefused,
    UntrustedSocket,
)
from streamer_client.contract.socket import socket_candidates

logger = logging.getLogger(__name__)


def link_to_any(place: SocketPlace, label: str, reconnect_s: float) -> Link:
    """A link to the running daemon, or else to this user's own, which the first caller starts.

    Args:
        place: where a daemon is expected.
        label: what the daemon's status shows for this client.
        reconnect_s: how long to look for a new daemon when the connection is lost.

    Raises:
        DaemonUnavailable: no daemon runs, and none can be started.
        ProtocolMismatch: a daemon of another version runs.
    """
    try:
        return Link(place.path, label, reconnect_s)
    except UntrustedSocket as error:
        logger.warning("event=place_not_used socket=%s reason=%r", place.path, str(error))
    except (DaemonUnavailable, RequestRefused) as error:
        logger.info("event=starting_daemon reason=%r", str(error))
    own = (place.path,) if place.named else socket_candidates(os.environ, os.geteuid())
    return Link(_own_socket(own), label, reconnect_s)


def _own_socket(places: Sequence[str]) -> str:
    """The first place where this user's daemon answers, or else where one can be started.

    Raises:
        DaemonUnavailable: there is no such place, or the daemon does not come up.
    """
    reasons = []
    for socket_path in places:
        try:
            return _served(socket_path)
        except (UnusablePlace, UntrustedSocket, RequestRefused, ConfigError) as error:
            logger.warning("event=place_not_used socket=%s reason=%r", socket_path, str(error))
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
