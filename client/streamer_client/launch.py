"""Choosing the way to a checkpoint by `mode`: a running daemon, one started for this user, or none.

Owns what each `Mode` means for a client. `connecting/finding.py` finds or starts a daemon, and
`delivery/openers.py` opens checkpoints. Runs in the caller's thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import assert_never

from streamer_client.client import Client, daemon_client, direct_client
from streamer_client.connecting.finding import link_to_any
from streamer_client.connecting.link import RECONNECT_S
from streamer_client.connecting.requests import Admin
from streamer_client.connecting.trust import SocketPlace, find_socket
from streamer_client.contract.errors import (
    ConfigError,
    DaemonUnavailable,
    ProtocolMismatch,
    RequestRefused,
)
from streamer_client.contract.options import Mode, chosen_mode
from streamer_client.delivery.openers import AutoOpener

logger = logging.getLogger(__name__)


def open_client(
    mode: str | None = None,
    socket: str | None = None,
    label: str = "",
    reconnect_s: float = RECONNECT_S,
    environ: Mapping[str, str] = os.environ,
) -> Client:
    """A client of the chosen mode; `Checkpoint.stats.mode` tells which way a load took.

    Args:
        mode: one of `Mode`; by default `$STREAMERD_MODE`, else `auto`. `off`, which leaves vLLM its
            own loaders, reads directly here and starts nothing.
        socket: the daemon's socket; by default the place that docs/operations.md names.
        label: what `streamerctl status` shows for this client.
        reconnect_s: how long a load looks for a new daemon when its own dies.
        environ: variables that name the credentials and endpoints of sources.

    Raises:
        ConfigError: no such mode.
        DaemonUnavailable: mode `required`, and nothing answers, or the listener is not trusted.
        ProtocolMismatch: mode `required`, and the daemon is of another version.
    """
    chosen = chosen_mode(mode, os.environ)
    place = find_socket(os.environ, os.geteuid(), socket)
    match chosen:
        case Mode.DIRECT | Mode.OFF:
            return direct_client(environ)
        case Mode.REQUIRED:
            return daemon_client(place.path, label, reconnect_s, environ)
        case Mode.AUTO:
            return _auto_client(place, label, reconnect_s, environ)
        case _:
            assert_never(chosen)


def _auto_client(
    place: SocketPlace, label: str, reconnect_s: float, environ: Mapping[str, str]
) -> Client:
    try:
        link = link_to_any(place, label, reconnect_s)
    except (DaemonUnavailable, ProtocolMismatch, RequestRefused, ConfigError, OSError) as error:
        logger.warning("event=no_daemon mode=direct reason=%r", str(error))
        return direct_client(environ)
    return Client(AutoOpener(link, environ), Admin(link))
