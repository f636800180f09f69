"""The paths of a daemon's sockets. Pure: callers pass the environment and predicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

SYSTEM_SOCKET: Final = "/run/streamerd/control.sock"
SOCKET_ENV: Final = "STREAMERD_SOCKET"
DESCRIPTOR_SUFFIX: Final = ".fd"
"""The descriptor socket's path is that of the control socket and this suffix."""
SUN_PATH_BYTES: Final = 107
"""`sun_path` of unix(7) holds 108 bytes with its terminating null."""
MAX_SOCKET_PATH_BYTES: Final = SUN_PATH_BYTES - len(DESCRIPTOR_SUFFIX)
"""The longest path of a control socket, since that of its descriptor socket must fit too."""


def descriptor_socket(socket_path: str) -> str:
    """The path of the descriptor socket that belongs to a control socket."""
    return socket_path + DESCRIPTOR_SUFFIX


def socket_candidates(environ: Mapping[str, str], uid: int) -> tuple[str, ...]:
    """The places for this user's own daemon, in the order in which they are tried.

    The last place is for a machine whose /tmp somebody else has spoilt: only the user may write
    below their home.
    """
    places = [f"/tmp/streamerd-{uid}"]
    runtime_dir, home = environ.get("XDG_RUNTIME_DIR", ""), environ.get("HOME", "")
    if runtime_dir.startswith("/"):  # the XDG specification ignores relative ones
        places.insert(0, f"{runtime_dir.rstrip('/')}/streamerd")
    if home.startswith("/"):
        places.append(f"{home.rstrip('/')}/.cache/streamerd")
    return tuple(f"{place}/control.sock" for place in places)


def default_socket(
    environ: Mapping[str, str],
    uid: int,
    answers: Callable[[str], bool],
    usable: Callable[[str], bool],
) -> str:
    """The socket to use when no flag names one: environment, system daemon, this user's own.

    Args:
        environ: the process environment.
        uid: the user of this process.
        answers: whether there is a socket at a path that this process may trust.
        usable: whether this user may make a socket at a path.
    """
    named = environ.get(SOCKET_ENV)
    if named:
        return named
    own = socket_candidates(environ, uid)
    there = (path for path in (SYSTEM_SOCKET, *own) if answers(path))
    could_be = (path for path in own if usable(path))
    return next(there, None) or next(could_be, own[0])
