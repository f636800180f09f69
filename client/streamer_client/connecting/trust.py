"""Judges whom this process may talk to: the owners of a socket's folders, and its listener.

A path is only as trustworthy as everybody who may change it. So each folder on the way to the
socket is checked, and after connecting the kernel tells who listens. Owns these two checks and the
choice of the socket that rests on them; leaves connecting to others. Each check blocks the calling
thread for a few microseconds.

The user of this process and root are trusted. The *service's user* is whoever owns the folder of
the socket. That user is trusted at a place that somebody chose: a socket that was named, or the
system's. At places that are only tried, the service's user is never trusted, since anybody may have
been there first.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from streamer_client.contract.errors import UntrustedSocket
from streamer_client.contract.socket import (
    MAX_SOCKET_PATH_BYTES,
    SOCKET_ENV,
    SYSTEM_SOCKET,
    default_socket,
    socket_candidates,
)
from streamer_client.storage.os_errors import absolute_path

logger = logging.getLogger(__name__)

ROOT: Final = 0
MOST_LINKS: Final = 40
"""How many symbolic links a path may have, as for the kernel: see path_resolution(7)."""

_OPEN_FOLDER: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ALL_USERS: Final = 2**32 - 1


class SocketPlace(NamedTuple):
    """A control socket, and whether a user or a setting named it."""

    path: str
    named: bool


# --- the socket to use ----------------------------------------------------------------------------


def find_socket(environ: Mapping[str, str], uid: int, chosen: str | None = None) -> SocketPlace:
    """The socket to use: docs/operations.md lists the places, in their order.

    Clients, `streamerctl` and the daemon itself ask here.

    Places where something lies that must not be trusted are passed over, with a warning.

    Args:
        environ: the process environment.
        uid: the user of this process.
        chosen: the socket that a flag or an argument names; it goes before all others.

    Raises:
        ConfigError: the path is relative, and the working directory was removed.
    """
    path = chosen or default_socket(environ, uid, _answers, _is_usable)
    return SocketPlace(absolute_path(path), named=bool(chosen or environ.get(SOCKET_ENV)))


def is_named(socket_path: str, environ: Mapping[str, str], uid: int) -> bool:
    """Whether a socket was named, that is, stands at none of the places that are tried."""
    return socket_path not in (SYSTEM_SOCKET, *socket_candidates(environ, uid))


def _answers(socket_path: str) -> bool:
    try:
        there = stat.S_ISSOCK(os.stat(socket_path).st_mode)
    except OSError:
        return False
    return there and _is_trusted(socket_path)


def _is_trusted(socket_path: str) -> bool:
    try:
        check_socket_place(socket_path, named=False)
    except UntrustedSocket as error:
        logger.warning("event=place_not_used socket=%s reason=%r", socket_path, str(error))
        return False
    return True


def _is_usable(socket_path: str) -> bool:
    """Whether a socket could probably be made there; nothing is made to find out."""
    if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH_BYTES:
        return False
    folder = os.path.dirname(socket_path)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=True) and _is_trusted(socket_path)


# --- the folders above it -------------------------------------------------------------------------


class _Step(NamedTuple):
    """A folder, or a symbolic link, on the way to a socket."""

    path: str
    found: os.stat_result


def check_socket_place(socket_path: str, *, named: bool) -> None:
    """Check before connecting that nobody untrusted can put another socket at a path.

    The check ends without a complaint at a folder that is missing or may not be entered, because
    the connection will then fail by itself.

    Args:
        socket_path: where the socket is, or will be.
        named: whether somebody named this path, by flag, variable or configuration.

    Raises:
        UntrustedSocket: the text says which folder, whose it is, and what to do.
    """
    folder = os.path.dirname(absolute_path(socket_path))
    trusted = _trusted_users()
    folders: list[_Step] = []
    for step in _way_to(folder):
        if stat.S_ISLNK(step.found.st_mode):
            # The service's user does not count here: a link of theirs leads away from the named
            # place.
            _check_owner(step, trusted, socket_path)
        else:
            folders.append(step)
    complete = bool(folders) and _is_same(folders[-1].found, folder)
    if complete and (named or socket_path == SYSTEM_SOCKET):
        trusted |= {folders[-1].found.st_uid}
    for step in folders:
        _check_owner(step, trusted, socket_path)
        _check_mode(step, socket_path)


def _is_same(found: os.stat_result, path: str) -> bool:
    try:
        return os.path.samestat(found, os.stat(path))
    except OSError:
        return False


def _check_owner(step: _Step, trusted: set[int], socket_path: str) -> None:
    if step.found.st_uid in trusted:
        return
    what = "symbolic link" if stat.S_ISLNK(step.found.st_mode) else "folder"
    raise UntrustedSocket(
        f"the socket {socket_path} is not used: the {what} {step.path} belongs to user "
        f"{step.found.st_uid}, who is neither you (user {os.geteuid()}) nor root and could put "
        f"another socket there. {_REMEDY}"
    )


def _check_mode(step: _Step, socket_path: str) -> None:
    mode = stat.S_IMODE(step.found.st_mode)
    if not mode & (stat.S_IWGRP | stat.S_IWOTH) or mode & stat.S_ISVTX:
        return
    who = "everybody" if mode & stat.S_IWOTH else f"group {step.found.st_gid}"
    raise UntrustedSocket(
        f"the socket {socket_path} is not used: {who} may write to the folder {step.path} (mode "
        f"{mode:04o}) and could put another socket there; that the group may be yours alone is not "
        f"looked at. chmod go-w {step.path}, or: {_REMEDY}"
    )


_REMEDY: Final = (
    "Name a socket below folders that only you, root or the service may write to, with "
    "--socket or STREAMERD_SOCKET"
)


def _way_to(folder: str) -> Iterator[_Step]:
    """Each folder and link from / to `folder`, followed by descriptor, so that none changes.

    The iteration ends early at a folder that is missing or may not be entered.
    """
    names = [name for name in folder.split("/") if name][::-1]
    at = os.open("/", _OPEN_FOLDER)
    path, links = "", 0
    try:
        yield _Step("/", os.fstat(at))
        while names:
            name = names.pop()
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                yield _Step(f"{path}/{name}", found)
                target, links = os.readlink(name, dir_fd=at), links + 1
                if links > MOST_LINKS:
                    return
                names += [part for part in target.split("/") if part][::-1]
                if target.startswith("/"):
                    at, path = _entered(at, "/"), ""
                continue
            at, path = _entered(at, name), f"{path}/{name}"
            yield _Step(path, os.fstat(at))
    except OSError:
        return
    finally:
        os.close(at)


def _entered(at: int, name: str) -> int:
    entered = os.open(name, _OPEN_FOLDER, dir_fd=at)
    os.close(at)
    return entered


# --- who listens ----------------------------------------------------------------------------------


def check_peer(uid: int, socket_path: str, *, named: bool) -> None:
    """Check after connecting, and before sending, that the listener at a socket may be trusted.

    Args:
        uid: user of the listener, from `packet_socket.peer_of`.
        socket_path: where the listener listens.
        named: whether somebody named this path, by flag, variable or configuration.

    Raises:
        UntrustedSocket: the listener is somebody else.
    """
    if uid in {os.geteuid(), ROOT}:
        return
    if named or socket_path == SYSTEM_SOCKET:
        try:
            service = os.stat(os.path.dirname(absolute_path(socket_path))).st_uid
        except OSError:
            service = ROOT
        if uid == service:
            return
    raise UntrustedSocket(
        f"user {uid} listens at {socket_path}, who is neither you (user {os.geteuid()}) nor root "
        "nor the owner of a folder that was named for the service; nothing was sent. Remove that "
        f"socket if it should not be there, or: {_REMEDY}"
    )


def _trusted_users() -> set[int]:
    trusted = {os.geteuid(), ROOT}
    if not _sees_all_users():
        trusted.add(_overflow_uid())
    return trusted


def _sees_all_users(uid_map: Path = Path("/proc/self/uid_map")) -> bool:
    """Whether every user has a number here, so that the overflow uid means an ordinary user."""
    try:
        lines = uid_map.read_text(encoding="ascii").splitlines()
    except OSError:
        return True
    return sum(int(line.split()[2]) for line in lines) >= _ALL_USERS


def _overflow_uid() -> int:
    """The uid that the kernel shows for users of other user namespaces, such as root outside."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 65534
