"""A first knock at the socket, for an answer that ZeroMQ does not give: nobody is there."""

from __future__ import annotations

import contextlib
import os
import socket

from streamer_client.contract.errors import ConfigError, DaemonUnavailable, RequestRefused
from streamer_client.contract.socket import MAX_SOCKET_PATH_BYTES


def probe(socket_path: str) -> None:
    """Say at once, and clearly, when nothing can answer; ZeroMQ itself would go on trying.

    Raises:
        ConfigError: the path is longer than a socket's can be.
        RequestRefused: this user may not open it.
        DaemonUnavailable: there is no socket, or nobody listens.
    """
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the socket path {socket_path} has more than {MAX_SOCKET_PATH_BYTES} bytes; "
            "choose a shorter one with --socket or STREAMERD_SOCKET"
        )
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as knock:
        try:
            knock.connect(socket_path)
        except PermissionError as error:
            raise RequestRefused(
                f"{socket_path} may not be opened by user {os.getuid()}; add the user to the "
                "daemon's group, or start a daemon of your own: streamerd"
            ) from error
        except OSError as error:
            raise DaemonUnavailable(
                f"no daemon answers at {socket_path} ({error.strerror}); start one: "
                "systemctl start streamerd, or streamerd"
            ) from error
