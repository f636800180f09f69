"""The settings of the daemon: one table of keys.

This module owns each key's name, type, default and help. Flags, variables, the TOML file and the
output of `streamerctl config` are all made from the table. `config.py` decides which of several
given values counts. Used in the main process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec

from streamer_client.connecting.trust import find_socket
from streamer_client.contract.errors import ConfigError
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES, MIN_BLOCK_BYTES, PAGE_BYTES
from streamer_client.contract.limits import MAX_HEARTBEAT_S
from streamer_client.contract.socket import SYSTEM_SOCKET
from streamerd.memory.check import default_limit
from streamerd.memory.room import SHM_MOUNT, MemoryRoom
from streamerd.settings import parallel
from streamerd.settings.fleet import MEMBERS_FORMS, fleet_address, members_uri
from streamerd.settings.values import Prefetched, listen_address, prefetch_list

ENV_PREFIX: Final = "STREAMERD_"

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
Count = Annotated[int, msgspec.Meta(ge=1, le=256)]
Connections = Annotated[int, msgspec.Meta(ge=1, le=1024)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Heartbeat = Annotated[float, msgspec.Meta(gt=0, le=MAX_HEARTBEAT_S)]
"""Clients refuse a daemon that tells a longer one."""
BlockBytes = Annotated[int, msgspec.Meta(ge=MIN_BLOCK_BYTES, multiple_of=PAGE_BYTES)]
Bytes = Annotated[int, msgspec.Meta(ge=0)]
FleetName = Annotated[str, msgspec.Meta(pattern="^([A-Za-z0-9][A-Za-z0-9-]{0,62})?$")]
FileMode = Annotated[str, msgspec.Meta(pattern="^0?[67][0-7][0-7]$")]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings that the daemon runs with; every value has been checked."""

    socket: str
    memory_limit_bytes: Bytes
    workers: Count
    threads: Count
    connections: Connections
    bandwidth_limit_bytes: Bytes
    block_bytes: BlockBytes
    idle_exit_s: Seconds
    heartbeat_s: Seconds
    lag_s: Seconds
    space_wait_s: Seconds
    source_wait_s: Seconds
    credentials_wait_s: Seconds
    ephemeral: bool
    log_level: LogLevel
    log_format: LogFormat
    socket_mode: FileMode
    allow_root: bool
    readonly_shm: str
    """Path of a read-only mount of shared memory. If it is empty, `slabs.READONLY_MOUNT` is used,
    if that is such a mount."""
    metrics_listen: str
    """`HOST:PORT` or the path of a Unix socket, where metrics are served; if empty, none are."""
    prefetch: tuple[Prefetched, ...]
    fleet: str
    """Name of the fleet, the nodes that pass blocks on to each other; if empty, there is no
    fleet."""
    fleet_members: str
    fleet_listen: str
    fleet_tls_cert: str
    fleet_tls_key: str
    fleet_tls_ca: str
    fleet_insecure: bool
    fleet_uploads: Count
    fleet_bandwidth_limit_bytes: Bytes
    fleet_wait_s: Seconds

    @property
    def socket_mode_bits(self) -> int:
        return int(self.socket_mode, 8)


class Context(NamedTuple):
    """The facts that defaults are computed from."""

    environ: Mapping[str, str]
    room: MemoryRoom
    block_bytes: int = DEFAULT_BLOCK_BYTES
    socket: str = ""
    uid: int = os.geteuid()
    processors: float = 2.0
    """The number of processors that the daemon may use; see `parallel.processors`."""
    workers: int = 1


class Key(NamedTuple):
    """One setting: its name in TOML, flag and variable, and which values are valid."""

    name: str
    field: str
    type: Any
    metavar: str
    help: str
    default: Callable[[Context], object]
    is_size: bool = False
    accepts: str = ""
    reads: Callable[[object], object] | None = None
    """Parses a given value; None if the value is used as it is, or as a size."""
    in_help: bool = True
    """Whether `-h` shows the setting. That help fits a screen; the man page has all settings."""

    @property
    def wants(self) -> str:
        """A description of valid values, for error texts."""
        return self.accepts or _WANTS[self.metavar]

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


_WANTS: Final = {
    "PATH": "a path",
    "SIZE": "a size such as 64GiB, 500MB or plain bytes",
    "N": "a whole number from 1 to 256",
    "S": "seconds, more than 0",
    "LEVEL": "debug, info, warning or error",
    "MODE": 'a file mode in quotes: "0600" this user, "0660" its group too',
    "": "true or false",
}


def _socket_default(context: Context) -> str:
    # systemd made this directory for the process. So this process is the system's daemon, even if
    # its socket does not exist yet.
    if os.path.dirname(SYSTEM_SOCKET) in context.environ.get("RUNTIME_DIRECTORY", "").split(":"):
        return SYSTEM_SOCKET
    return find_socket(context.environ, context.uid).path


def _socket_mode_default(context: Context) -> str:
    """The socket is open to its group if this is the system's service and does not run as root."""
    return "0660" if context.socket == SYSTEM_SOCKET and context.uid != 0 else "0600"


def _workers_default(context: Context) -> int:
    return parallel.workers_for(context.processors, context.room)


def _threads_default(context: Context) -> int:
    return parallel.threads_for(context.workers)


def _block_bytes_default(context: Context) -> int:
    return parallel.block_bytes_for(context.processors)


def _connections_default(context: Context) -> int:
    return parallel.connections_for(context.processors)


def _memory_limit_default(context: Context) -> int:
    default = default_limit(context.room, context.block_bytes)
    if default is None:
        raise ConfigError(
            "cannot tell how much memory there is (no MemTotal, no control group limit and no "
            f"{SHM_MOUNT} mount); set memory_limit"
        )
    return default.limit_bytes


def _fixed(value: object) -> Callable[[Context], object]:
    return lambda _context: value


KEYS: Final = (
    Key("socket", "socket", str, "PATH", "control socket", _socket_default),
    Key("memory_limit", "memory_limit_bytes", Bytes, "SIZE",
        "most shared memory to use; by default half", _memory_limit_default, is_size=True),
    Key("workers", "workers", Count, "N", "fetch processes", _workers_default),
    Key("threads", "threads", Count, "N", "threads in each fetch process that read files",
        _threads_default),
    Key("connections", "connections", Connections, "N",
        "concurrent reads from object stores, of all loads", _connections_default,
        accepts="a whole number from 1 to 1024"),
    Key("bandwidth_limit", "bandwidth_limit_bytes", Bytes, "SIZE",
        "most bytes a second from object stores; 0 for no cap", _fixed(0), is_size=True),
    Key("block_size", "block_bytes", BlockBytes, "SIZE", "unit of reading and releasing",
        _block_bytes_default, is_size=True,
        accepts="a multiple of 4096 bytes, 64KiB or more"),
    Key("idle_exit_s", "idle_exit_s", Seconds, "S", "with --ephemeral: exit when idle this long",
        _fixed(600.0)),
    Key("heartbeat_s", "heartbeat_s", Heartbeat, "S", "time between a client's heartbeats",
        _fixed(2.0), accepts=f"seconds, more than 0, {MAX_HEARTBEAT_S:.0f} at most"),
    Key("lag_s", "lag_s", Seconds, "S", "a reader stuck this long loses its claim to a window",
        _fixed(30.0)),
    Key("space_wait_s", "space_wait_s", Seconds, "S", "wait this long for room on /dev/shm",
        _fixed(30.0)),
    Key("source_wait_s", "source_wait_s", Seconds, "S",
        "give up a read when the file system has not answered for this long", _fixed(60.0),
        in_help=False),
    Key("credentials_wait_s", "credentials_wait_s", Seconds, "S",
        "wait this long for expired credentials to be renewed", _fixed(60.0), in_help=False),
    Key("ephemeral", "ephemeral", bool, "", "exit when no client has come for idle_exit_s",
        _fixed(False)),
    Key("log_level", "log_level", LogLevel, "LEVEL", "debug, info, warning or error",
        _fixed("info")),
    Key("log_format", "log_format", LogFormat, "FORMAT",
        "text, or json: one object a line, with typed values", _fixed("text"), in_help=False,
        accepts="text or json"),
    Key("socket_mode", "socket_mode", FileMode, "MODE", "who may use the sockets",
        _socket_mode_default, in_help=False),
    Key("allow_root", "allow_root", bool, "", "run as root though others may use the sockets",
        _fixed(False), in_help=False),
    Key("readonly_shm", "readonly_shm", str, "PATH",
        "read-only mount of /dev/shm, through which slabs are handed out", _fixed(""),
        in_help=False),
    Key("metrics_listen", "metrics_listen", str, "ADDRESS",
        "serve metrics to Prometheus here; off by default", _fixed(""), in_help=False,
        accepts="a port of 127.0.0.1, HOST:PORT, [IPV6]:PORT, or an absolute path for a unix "
        "socket", reads=listen_address),
    Key("prefetch", "prefetch", tuple[Prefetched, ...], "SOURCES",
        "bring these in at start, with the service's own rights", _fixed(()), in_help=False,
        accepts='a list of absolute paths and URIs, or of tables such as {source = "/models/m", '
        'pattern = "*.safetensors", pin = true}; as a flag or variable one source, or that list '
        "as JSON", reads=prefetch_list),
    Key("fleet", "fleet", FleetName, "NAME", "share blocks with the nodes of this fleet; off by "
        "default", _fixed(""), in_help=False,
        accepts="letters, digits and hyphens, 63 at most"),
    Key("fleet_members", "fleet_members", str, "URI", "where the fleet's nodes are found",
        _fixed(""), in_help=False, accepts=MEMBERS_FORMS, reads=members_uri),
    Key("fleet_listen", "fleet_listen", str, "ADDRESS", "where other nodes ask this one for blocks",
        _fixed(""), in_help=False, accepts="HOST:PORT or [IPV6]:PORT, by an IP address",
        reads=fleet_address),
    Key("fleet_tls_cert", "fleet_tls_cert", str, "PATH", "this node's certificate, in PEM",
        _fixed(""), in_help=False),
    Key("fleet_tls_key", "fleet_tls_key", str, "PATH", "the key of that certificate",
        _fixed(""), in_help=False),
    Key("fleet_tls_ca", "fleet_tls_ca", str, "PATH",
        "the authority that signs certificates of this fleet's nodes, and no others",
        _fixed(""), in_help=False),
    Key("fleet_insecure", "fleet_insecure", bool, "",
        "share blocks beyond this machine without certificates", _fixed(False), in_help=False),
    Key("fleet_uploads", "fleet_uploads", Count, "N", "blocks sent to other nodes at once",
        _fixed(16), in_help=False),
    Key("fleet_bandwidth_limit", "fleet_bandwidth_limit_bytes", Bytes, "SIZE",
        "most bytes a second to other nodes; 0 for no cap", _fixed(0), is_size=True,
        in_help=False),
    Key("fleet_wait_s", "fleet_wait_s", Seconds, "S",
        "read the store when the fleet has brought nothing for this long", _fixed(20.0),
        in_help=False),
)  # fmt: skip
"""The single source of keys, flags, variables, defaults and help; one row for each key."""
