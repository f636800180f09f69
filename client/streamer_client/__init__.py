"""Client of streamerd: checkpoints out of the node's shared memory.

Importing this package is cheap; torch is imported by the first `open`.

    with streamer_client.connect() as client:
        with client.open("/models/llama") as checkpoint:
            checkpoint.load_into(model.state_dict())
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from streamer_client.contract.errors import (
    ConfigError,
    CorruptCheckpoint,
    DaemonUnavailable,
    MemoryLimitError,
    ProtocolMismatch,
    RequestRefused,
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceNotFound,
    StreamerError,
)
from streamer_client.contract.modes import CONNECT_DEFAULT, chosen_mode

if TYPE_CHECKING:
    from streamer_client.checkpoint import Checkpoint
    from streamer_client.client import Client

__all__ = [
    "Checkpoint",
    "Client",
    "ConfigError",
    "CorruptCheckpoint",
    "DaemonUnavailable",
    "MemoryLimitError",
    "ProtocolMismatch",
    "RequestRefused",
    "SourceChanged",
    "SourceError",
    "SourceForbidden",
    "SourceNotFound",
    "StreamerError",
    "connect",
]


def connect(
    socket: str | os.PathLike[str] | None = None, *, label: str = "", mode: str | None = None
) -> Client:
    """Connect to the node's daemon.

    Args:
        socket: its control socket; by default `$STREAMERD_SOCKET`, the system's, or the user's own.
        label: what `streamerctl status` shows for this client.
        mode: `required` (default): a daemon must run; `auto`: use one, start one for this user, or
            read without; `direct`: read without; `off`: the same. `STREAMERD_MODE` sets the
            default.

    Raises:
        DaemonUnavailable: nothing answers, and the mode needs a daemon.
        ProtocolMismatch: the daemon is of another version.
        ConfigError: no such mode.
    """
    from streamer_client.launch import open_client  # noqa: PLC0415  keeps this import cheap

    chosen = chosen_mode(mode, os.environ, CONNECT_DEFAULT)
    return open_client(chosen, None if socket is None else os.fspath(socket), label=label)


def __getattr__(name: str) -> Any:
    if name == "Client":
        from streamer_client.client import Client  # noqa: PLC0415

        return Client
    if name == "Checkpoint":
        from streamer_client.checkpoint import Checkpoint  # noqa: PLC0415

        return Checkpoint
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
