"""Judges whether there is a daemon of this version that this user may talk to.

This module is pure: facts come in, verdicts go out. The facts are gathered in `ask_node.py`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from streamer_client.contract.sizes import format_size
from streamer_client.contract.status import FleetStatus
from streamerd.cli.doctor.finding import Finding, State
from streamerd.cli.doctor.place import NODE, Remedies
from streamerd.cli.terminal import BAD_CONFIG

_START = "systemctl start streamerd"


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """The state of streamerd.service, as systemd tells it; all fields are empty without systemd."""

    load_state: str = ""
    active_state: str = ""
    result: str = ""
    restarts: int = 0
    exit_code: int = 0
    """Exit code of the service's last main process, or the number of the signal that ended it."""


@dataclass(frozen=True, slots=True)
class SocketFacts:
    """The control socket as this user finds it."""

    path: str
    user: str
    connect_error: int | None
    """The errno with which connecting failed; None if it succeeded."""
    group: str = ""
    in_database: bool = False
    """Whether the group database has the user in `group`."""
    in_session: bool = False
    """Whether this process is in `group`. It is not if the user joined the group after logging
    in."""
    gid: int | None = None
    """The group's number. A container may have no name for it."""
    folder: bool = True
    """Whether the socket's folder exists."""
    peer_pid: int = 0
    """Pid of the listening process, as the kernel tells it; 0 if its pid namespace is not
    visible."""


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """The facts that the daemon told about itself."""

    version: str
    pid: int
    uptime_s: float
    instance: str
    limit_bytes: int
    used_bytes: int
    elsewhere: bool = False
    """Whether the daemon runs in another container than this process, so that the mounts and limits
    that this process sees are not the daemon's."""
    fleet: FleetStatus | None = None


def check_service(service: ServiceFacts, remedies: Remedies = NODE, *, answers: bool) -> Finding:
    """Judge the state of the systemd unit."""
    if not service.load_state:
        return Finding("service", State.NOTE, remedies.what)
    state, text, remedy = _service(service, answers=answers)
    return Finding("service", state, text, remedy)


def _service(service: ServiceFacts, *, answers: bool) -> tuple[State, str, str]:
    active = service.active_state
    if service.load_state == "not-found":
        return State.NOTE, "streamerd.service is not installed", ""
    if active == "active":
        restarts = f", restarted {service.restarts} times" if service.restarts else ""
        return State.OK, f"streamerd.service is active{restarts}", ""
    if active == "failed" and service.exit_code == BAD_CONFIG:
        remedy = "mend what `streamerd --check` says, then `systemctl restart streamerd`"
        return State.FAILED, f"its configuration is wrong (exit code {BAD_CONFIG})", remedy
    if active == "failed":
        remedy = "see `journalctl -u streamerd -n 20`, then `systemctl restart streamerd`"
        return State.FAILED, f"streamerd.service failed ({service.result})", remedy
    if active == "inactive" and answers:
        text = "streamerd.service is stopped; a daemon that was started in another way answers"
        return State.WARNING, text, f"stop that daemon, then `{_START}`"
    if active == "inactive":
        return State.FAILED, "streamerd.service is stopped", f"`{_START}`"
    return State.WARNING, f"streamerd.service is {active}", "wait, or see `journalctl -u streamerd`"


def check_socket(socket: SocketFacts, remedies: Remedies = NODE) -> Finding:
    """Whether this user can connect."""
    state, text, remedy = _socket(socket, remedies)
    return Finding("socket", state, f"{socket.path} {text}", remedy)


def _socket(socket: SocketFacts, remedies: Remedies) -> tuple[State, str, str]:
    match socket.connect_error:
        case None:
            return State.OK, f"may be used by {socket.user}", ""
        case errno.ENOENT:
            text = "does not exist; vLLM starts a daemon of its own where it may (mode=auto)"
            start = remedies.start if socket.folder else remedies.share
            return State.WARNING, text, f"{start}, or `streamerd --socket {socket.path}`"
        case errno.ECONNREFUSED:
            return State.FAILED, "is left over from a daemon that died", remedies.start
        case errno.EACCES | errno.EPERM:
            return State.FAILED, f"may not be used by {socket.user}", _how_to_join(socket, remedies)
        case number:
            return State.FAILED, f"cannot be reached: {os.strerror(number)}", remedies.look


def _how_to_join(socket: SocketFacts, remedies: Remedies) -> str:
    if socket.in_session:
        return f"the daemon must let its group in: `chmod 0660 {socket.path}`"
    if socket.in_database:
        return f"{socket.user} joined {socket.group} after logging in: log in again"
    gid = "the number of the socket's group" if socket.gid is None else socket.gid
    group = socket.group or "streamerd"
    return remedies.join.format(group=group, gid=gid, user=socket.user)


def check_daemon(
    answer: DaemonFacts | str | None, version: str, remedies: Remedies = NODE
) -> Finding:
    """Whether the daemon answers, and has this version.

    Args:
        answer: what the daemon answered, or the error's text, or None if it was not asked.
        version: the version of this program.
        remedies: what can be done here.
    """
    if answer is None:
        return Finding("daemon", State.NOTE, "not asked: the socket cannot be used")
    if isinstance(answer, str):
        return Finding("daemon", State.FAILED, answer, remedies.restart)
    if answer.version != version:
        text = f"the daemon has version {answer.version}, this program {version}"
        remedy = f"install the same version of both, then {remedies.restart}"
        return Finding("daemon", State.WARNING, text, remedy)
    used = f"{format_size(answer.used_bytes)} of {format_size(answer.limit_bytes)} in use"
    text = f"version {answer.version}, pid {answer.pid}, up {answer.uptime_s:.0f} s, {used}"
    return Finding("daemon", State.OK, text)
