"""`streamerctl doctor`: has the facts gathered and judged, and shows the findings."""

from __future__ import annotations

import argparse
import json
import os
import sys

from streamer_client.contract.status import FleetStatus
from streamerd import __version__
from streamerd.cli.doctor import ask_environment, ask_node
from streamerd.cli.doctor.ask_place import ask_place
from streamerd.cli.doctor.daemon import (
    DaemonFacts,
    SocketFacts,
    check_daemon,
    check_service,
    check_socket,
)
from streamerd.cli.doctor.environment import (
    check_imports,
    check_kernel,
    check_torch,
    check_vllm,
)
from streamerd.cli.doctor.finding import Finding, any_failed
from streamerd.cli.doctor.fleet import check_fleet, other_member
from streamerd.cli.doctor.memory import (
    check_cgroup,
    check_huge_pages,
    check_memlock,
    check_room,
    check_segments,
    not_seen,
)
from streamerd.cli.doctor.place import REMEDIES, Remedies
from streamerd.cli.doctor.source import check_source
from streamerd.cli.doctor.view import as_json, show
from streamerd.cli.source_name import absolute_source
from streamerd.cli.terminal import DONE, FAILED, console


def run(arguments: argparse.Namespace) -> int:
    """Make all checks and show them; the exit code says whether something must be mended."""
    findings = look(arguments.socket)
    if arguments.source:
        findings += check_source(absolute_source(arguments.source), os.environ)
    if arguments.json:
        sys.stdout.write(json.dumps(as_json(findings), indent=2) + "\n")
    else:
        show(findings, console())
    return FAILED if any_failed(findings) else DONE


def look(socket_path: str) -> list[Finding]:
    """Make all checks but that of a source; returns their findings."""
    remedies = REMEDIES[ask_place(os.environ)]
    socket = ask_node.ask_socket(socket_path)
    reached = socket.connect_error is None
    answer = ask_node.ask_daemon(socket_path, socket.peer_pid) if reached else None
    daemon = answer if isinstance(answer, DaemonFacts) else None
    return [
        check_service(ask_node.ask_service(), remedies, answers=daemon is not None),
        check_socket(socket, remedies),
        check_daemon(answer, __version__, remedies),
        *_fleet(daemon.fleet if daemon else None),
        *_memory(daemon, socket, remedies),
        *_machine(daemon),
    ]


def _fleet(fleet: FleetStatus | None) -> list[Finding]:
    return check_fleet(fleet, ask_node.ask_peer(other_member(fleet)))


def _memory(daemon: DaemonFacts | None, socket: SocketFacts, remedies: Remedies) -> list[Finding]:
    return [
        *_slabs(daemon, socket.peer_pid, remedies),
        check_memlock(ask_node.ask_memlock(), remedies, gpu=ask_environment.ask_gpu()),
        *check_segments(
            ask_node.ask_segments(), ask_node.ask_living(), ask_node.ask_keeping(socket.path)
        ),
    ]


def _slabs(daemon: DaemonFacts | None, peer_pid: int, remedies: Remedies) -> list[Finding]:
    """Check the daemon's memory, as far as this process can see it."""
    if daemon is not None and daemon.elsewhere and not peer_pid:
        return [not_seen("room"), not_seen("cgroup")]
    limit_bytes = daemon.limit_bytes if daemon else None
    group = check_cgroup(ask_node.ask_cgroup(peer_pid) if daemon else None, limit_bytes, remedies)
    if daemon is not None and daemon.elsewhere:
        return [not_seen("room"), group]
    mount = ask_node.ask_mount()
    return [
        check_room(mount, limit_bytes, daemon.used_bytes if daemon else 0, remedies),
        *([check_huge_pages(mount, remedies)] if mount else []),
        group,
    ]


def _machine(daemon: DaemonFacts | None) -> list[Finding]:
    python = ask_environment.ask_python(os.environ)
    return [
        check_vllm(python, daemon.version if daemon else None),
        *check_imports(python),
        check_torch(python, gpu=ask_environment.ask_gpu()),
        check_kernel(ask_environment.ask_kernel()),
    ]
