"""Settings of the fleet: how its members are found, what must be set together, and the terms.

This module owns the forms of `fleet_members` and `fleet_listen`. It also owns `Terms`, the settings
that are passed to a node's other processes, which do not read the configuration themselves. The
keys are in `table.py`. `streamerd/fleet/` uses the settings, and is imported only if a fleet is
configured. Pure: the code that connects to etcd reads the password from its file.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Protocol
from urllib.parse import parse_qsl, urlsplit

import msgspec

from streamer_client.contract.errors import ConfigError

MEMBERS_FORMS: Final = (
    "etcd://HOST:PORT[,HOST:PORT...][?ca=FILE&cert=FILE&key=FILE&user=NAME&password_file=FILE"
    "&prefix=/streamerd], or dns://SERVICE:PORT"
)
_ETCD_OPTIONS: Final = frozenset({"ca", "cert", "key", "user", "password_file", "prefix"})
_ETCD_PORT: Final = 2379


class EtcdMembers(msgspec.Struct, frozen=True, kw_only=True, tag="etcd"):
    """Members announce themselves in etcd, each by a key with a lease."""

    endpoints: tuple[tuple[str, int], ...]
    """Host and port of each etcd server."""
    prefix: str = "/streamerd"
    ca: str = ""
    """PEM file of the authority that signs etcd's certificates. If it is set, etcd is asked by
    HTTPS."""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""


class DnsMembers(msgspec.Struct, frozen=True, kw_only=True, tag="dns"):
    """Members are the addresses behind one name, such as a headless Service of Kubernetes."""

    host: str
    port: int


AnyMembers = EtcdMembers | DnsMembers


def parse_members(uri: str) -> AnyMembers:
    """Parse the value of `fleet_members`.

    Raises:
        ValueError: the value has neither form.
    """
    parts = urlsplit(uri)
    if parts.username is not None or "@" in parts.netloc:
        raise ValueError("a user belongs into ?user=NAME&password_file=FILE, never a password here")
    match parts.scheme:
        case "etcd":
            options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
            if unknown := sorted(options.keys() - _ETCD_OPTIONS):
                raise ValueError(f"{unknown[0]!r} is no option of etcd://")
            if parts.path.strip("/") or bool(options.get("cert")) != bool(options.get("key")):
                raise ValueError(f"{uri!r} has a path, or only one of cert and key")
            hosts = tuple(_host_port(each, _ETCD_PORT) for each in parts.netloc.split(","))
            return EtcdMembers(endpoints=hosts, **options)
        case "dns":
            host, port = _host_port(parts.netloc, 0)
            if not port or parts.path.strip("/") or parts.query:
                raise ValueError(f"{uri!r} is not dns://SERVICE:PORT")
            return DnsMembers(host=host, port=port)
        case _:
            raise ValueError(f"{uri!r} is neither etcd:// nor dns://")


def members_uri(given: object) -> str:
    """The value for `fleet_members`, if it has one of the two forms or is empty.

    Raises:
        ValueError: it is something else.
    """
    uri = str(given)
    if uri:
        parse_members(uri)
    return uri


def fleet_address(given: object) -> str:
    """The value for `fleet_listen`, if it is an IP address with a port or empty.

    Raises:
        ValueError: it is something else.
    """
    text = str(given)
    if text:
        host, port = split_address(text)
        ipaddress.ip_address(host)
        if not port:
            raise ValueError(f"{text!r} has no port")
    return text


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        ValueError: it is something else.
    """
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdigit()) or int(port) >= 1 << 16 or not host:
        raise ValueError(f"{address!r} is no HOST:PORT")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare and bare == host:
        raise ValueError(f"{address!r}: put the IPv6 address into brackets")
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """Host and port as one text, in the form that `split_address` parses."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _host_port(text: str, port: int) -> tuple[str, int]:
    bare = ":" not in text.rpartition("]")[2]
    host, port = split_address(f"{text}:{port}" if bare else text)
    if not host.strip("[]"):
        raise ValueError(f"{text!r} names no host")
    return host, port


class FleetKeys(Protocol):
    """The settings of a fleet among all settings in `table.py`."""

    @property
    def fleet(self) -> str: ...
    @property
    def fleet_members(self) -> str: ...
    @property
    def fleet_listen(self) -> str: ...
    @property
    def fleet_tls_cert(self) -> str: ...
    @property
    def fleet_tls_key(self) -> str: ...
    @property
    def fleet_tls_ca(self) -> str: ...
    @property
    def fleet_insecure(self) -> bool: ...
    @property
    def fleet_uploads(self) -> int: ...
    @property
    def fleet_bandwidth_limit_bytes(self) -> int: ...
    @property
    def fleet_wait_s(self) -> float: ...


class Certificates(msgspec.Struct, frozen=True):
    """PEM files: a node's certificate with its key, and the authority of the whole fleet."""

    cert: str
    key: str
    ca: str


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms on which this node takes part in its fleet."""

    name: str
    members: AnyMembers
    listen: str
    certificates: Certificates | None
    """The node's certificates; None for plain HTTP, on loopback or in a trusted network."""
    uploads: int
    bandwidth_limit_bytes: int
    wait_s: float

    @property
    def scheme(self) -> str:
        return "https" if self.certificates else "http"


def terms_of(settings: FleetKeys) -> Terms:
    """Make the terms from the settings; the setting `fleet` must not be empty."""
    files = (settings.fleet_tls_cert, settings.fleet_tls_key, settings.fleet_tls_ca)
    return Terms(
        name=settings.fleet,
        members=parse_members(settings.fleet_members),
        listen=settings.fleet_listen,
        certificates=Certificates(*files) if all(files) else None,
        uploads=settings.fleet_uploads,
        bandwidth_limit_bytes=settings.fleet_bandwidth_limit_bytes,
        wait_s=settings.fleet_wait_s,
    )


def check_fleet(settings: FleetKeys) -> None:
    """Refuse a fleet that lacks a setting, or would serve everybody who reaches its port.

    Raises:
        ConfigError: the text names the setting.
    """
    if not settings.fleet:
        return
    for key in ("fleet_members", "fleet_listen"):
        if not getattr(settings, key):
            raise ConfigError(f"fleet is {settings.fleet!r}, and {key} is empty; set it as well")
    files = (settings.fleet_tls_cert, settings.fleet_tls_key, settings.fleet_tls_ca)
    if all(files):
        return
    if any(files):
        raise ConfigError(
            "fleet_tls_cert, fleet_tls_key and fleet_tls_ca belong together; set all three"
        )
    host, _ = split_address(settings.fleet_listen)
    if not ipaddress.ip_address(host).is_loopback and not settings.fleet_insecure:
        raise ConfigError(
            f"fleet_listen is {settings.fleet_listen}, and without certificates whoever reaches it "
            "could read what is in memory and pass wrong weights on; set fleet_tls_cert, "
            "fleet_tls_key and fleet_tls_ca, or set fleet_insecure to true if that network is "
            "trusted"
        )
