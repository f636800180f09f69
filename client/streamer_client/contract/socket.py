"""Where the control socket lives. Pure: callers pass the environment and a predicate."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

SYSTEM_SOCKET: Final = "/run/streamerd/control.sock"
SOCKET_ENV: Final = "STREAMERD_SOCKET"
MAX_SOCKET_PATH_BYTES: Final = 107
"""`sun_path` of unix(7) holds 108 bytes with its terminating null."""


def user_socket(environ: Mapping[str, str], uid: int) -> str:
    """The socket of this user's own daemon."""
    runtime_dir = environ.get("XDG_RUNTIME_DIR")
    base = f"{runtime_dir}/streamerd" if runtime_dir else f"/tmp/streamerd-{uid}"
    return f"{base}/control.sock"


def default_socket(environ: Mapping[str, str], uid: int, exists: Callable[[str], bool]) -> str:
    """The socket to use when no flag names one: environment, system daemon, this user's own."""
    named = environ.get(SOCKET_ENV)
    if named:
        return named
    return SYSTEM_SOCKET if exists(SYSTEM_SOCKET) else user_socket(environ, uid)


def instance_of(socket_path: str) -> str:
    """Eight hexadecimal digits that keep the slabs of daemons on different sockets apart."""
    return hashlib.blake2s(socket_path.encode(), digest_size=4).hexdigest()
