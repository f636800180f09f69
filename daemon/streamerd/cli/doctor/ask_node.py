"""Gathers the facts that `daemon.py` and `memory.py` judge: systemd, socket, /dev/shm, cgroup."""

from __future__ import annotations

import grp
import os
import pwd
import re
import resource
import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from streamer_client.connecting.packet_socket import peer_of
from streamer_client.contract.errors import StreamerError
from streamer_client.contract.socket import SYSTEM_SOCKET
from streamerd.cli.doctor.ask_place import SYSTEMD
from streamerd.cli.doctor.daemon import DaemonFacts, ServiceFacts, SocketFacts
from streamerd.cli.doctor.fleet import PeerFacts
from streamerd.cli.doctor.memory import MountFacts, Segments
from streamerd.cli.request import Requester
from streamerd.cli.status import asked_status
from streamerd.control.instance import read_instance
from streamerd.memory.room import SHM_MOUNT, cgroup_limit
from streamerd.settings.fleet import split_address
from streamerd.shm.huge_pages import can_collapse
from streamerd.shm.slabs import PREFIX, allocated_bytes, mount_bytes

_CONNECT_S: Final = 2.0
_SLAB: Final = re.compile(re.escape(PREFIX) + r"(?P<instance>[0-9a-f]+)\.")
_PROPERTIES: Final = ("LoadState", "ActiveState", "Result", "NRestarts", "ExecMainStatus")


def ask_service() -> ServiceFacts:
    """Ask systemd about the service; the facts are empty if systemd does not run this machine."""
    if not os.path.isdir(f"/{SYSTEMD}") or shutil.which("systemctl") is None:
        return ServiceFacts()
    command = ["systemctl", "show", "streamerd.service", f"--property={','.join(_PROPERTIES)}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    told = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    load, active, result, *numbers = (told.get(name, "") for name in _PROPERTIES)
    restarts, code = (int(text) if text.isdigit() else 0 for text in numbers)
    return ServiceFacts(load, active, result, restarts, code)


def ask_socket(path: str) -> SocketFacts:
    """Connect once, and look up the socket's group."""
    user = _user()
    error, peer_pid = _connected(path)
    try:
        gid = os.stat(path).st_gid
    except OSError:
        folder = os.path.isdir(os.path.dirname(path))
        return SocketFacts(path, user, error, folder=folder)
    name, members = _group(gid)
    return SocketFacts(
        path,
        user,
        error,
        name,
        in_database=user in members,
        in_session=gid in (os.getegid(), *os.getgroups()),
        gid=gid,
        peer_pid=peer_pid,
    )


def _group(gid: int) -> tuple[str, list[str]]:
    """A group's name and members, empty where a container has no entry for a group of the node."""
    try:
        entry = grp.getgrgid(gid)
    except KeyError:
        return "", []
    return entry.gr_name, entry.gr_mem


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _connected(path: str) -> tuple[int | None, int]:
    """Connect once; returns the errno, or None on success, and the pid of the listening process."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            probe.connect(path)
            return None, peer_of(probe).pid
        except OSError as error:
            return error.errno or -1, 0


def ask_daemon(path: str, peer_pid: int) -> DaemonFacts | str:
    """Ask the daemon about itself; returns its facts, or the text of the error.

    `peer_pid` is the daemon's pid as the kernel tells it in this process's pid namespace.
    """
    try:
        with Requester(path) as requester:
            status = asked_status(requester)
    except StreamerError as error:
        return str(error)
    memory = status.memory
    return DaemonFacts(
        *(status.version, status.pid, status.uptime_s, status.instance),
        *(memory.limit_bytes, memory.used_bytes),
        elsewhere=status.pid != peer_pid,
        fleet=status.fleet,
    )


def ask_peer(address: str) -> PeerFacts | None:
    """Connect once to another member of the fleet; None if there is no other member."""
    if not address:
        return None
    try:
        with socket.create_connection(split_address(address), timeout=_CONNECT_S):
            return PeerFacts(address, "")
    except OSError as error:
        return PeerFacts(address, os.strerror(error.errno) if error.errno else str(error))


def ask_mount() -> MountFacts | None:
    """The shared-memory mount; None when there is none."""
    try:
        total_bytes, free_bytes = mount_bytes()
    except StreamerError:
        return None
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
    return MountFacts(total_bytes, free_bytes, huge_option(mounts), can_collapse())


def huge_option(mounts: str) -> str:
    """The `huge=` of the shared-memory mount in a text like /proc/self/mounts. Pure."""
    options = "never"
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[1] == SHM_MOUNT:  # a later mount covers an earlier one
            found = re.search(r"(?:^|,)huge=(\w+)", fields[3])
            options = found[1] if found else "never"
    return options


def ask_cgroup(pid: int) -> int | None:
    """The memory limit of a process's control group in bytes; None if it has no limit."""
    limit = cgroup_limit(process=str(pid))
    return limit[0] if limit else None


def ask_memlock() -> int | None:
    """How many bytes this process may lock in memory (RLIMIT_MEMLOCK); None for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def ask_segments() -> list[Segments]:
    """The slabs on the mount that this user could remove, by instance.

    Others' slabs are left out, since only their user and root can tell whether their daemon lives
    or may come back.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for name in sorted(os.listdir(SHM_MOUNT)) if os.path.isdir(SHM_MOUNT) else ():
        if (match := _SLAB.match(name)) and _is_ours(name):
            files[match["instance"]].append(f"/{name}")
    return [
        Segments(instance, len(names), sum(map(_allocated, names)))
        for instance, names in files.items()
    ]


def _is_ours(name: str) -> bool:
    try:
        return os.geteuid() in (0, os.lstat(f"{SHM_MOUNT}/{name}").st_uid)
    except FileNotFoundError:
        return False


def _allocated(name: str) -> int:
    try:
        return allocated_bytes(name)
    except FileNotFoundError:
        return 0  # the slab was removed since it was listed


def ask_living() -> set[str]:
    """Instances of the daemons whose sockets are open in this network namespace (proc(5))."""
    lines = Path("/proc/net/unix").read_text(encoding="utf-8").splitlines()[1:]
    return living_instances(lines)


def living_instances(lines: list[str]) -> set[str]:
    """Instances that are noted beside the sockets in lines of /proc/net/unix."""
    paths = (line.split(maxsplit=7)[7:] for line in lines)
    return _noted(path[0] for path in paths if path and path[0].startswith("/"))


def ask_keeping(socket_path: str) -> set[str]:
    """Instances whose daemon may start again: the system daemon's, and that of `socket_path`."""
    return _noted((SYSTEM_SOCKET, socket_path))


def _noted(socket_paths: Iterable[str]) -> set[str]:
    return {instance for path in socket_paths if (instance := read_instance(path))}
