"""Where a URL leads: the scheme, host and port that a connection is made to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.shown import shown

MALFORMED: Final = (
    "host and port cannot be told; write a port as a number, an IPv6 address in brackets, and "
    "/ ? # @ of a password as %2F %3F %23 %40"
)
"""urllib's own words would repeat a part of the password for the port that it takes it for."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """What connections are kept apart by."""

    scheme: str
    host: str
    """In lower case; an IPv6 address without its brackets."""
    port: int

    @property
    def authority(self) -> str:
        """The value of the Host header: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def origin_of(url: str) -> Origin:
    """The origin of an absolute URL.

    Raises:
        ConfigError: it is no http:// or https:// URL with a host and a valid port.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{shown(url)}: not a URL: {MALFORMED}") from None
    if parts.scheme not in DEFAULT_PORTS or not host:
        raise ConfigError(f"{shown(url)}: not a URL of a server; write https://host[:port]/...")
    return Origin(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme])


def target_of(url: str) -> str:
    """Path and query, as they stand in the request line."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
