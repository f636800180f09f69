"""Settings of connections: certificates, proxies, timeouts. Pure.

Settings are hashable, so that readers with equal settings share connections. They hold no
credentials of a store. `storage/environment.py` reads the variables that they come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from streamer_client.storage.http.proxies import NO_PROXIES, Proxies

CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
"""The longest time without a single byte. Run:ai's default is one second, over which its users
stumble."""

FLOOR_BYTES_S: Final = 64 << 10
"""The slowest average speed of an answer. 32 connections that share a line of 20 Mbit/s have 76
KiB/s each, and a block of 8 MiB may take two minutes after its first byte. Since the bytes of a
broken attempt are kept, a line half as fast still gets the block in several attempts."""


@dataclass(frozen=True, slots=True)
class SettingNames:
    """The names that users know two of the settings by, for the remedies of errors."""

    authorities: str = "the setting of trusted certificates"
    read_timeout: str = "read timeout"


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The settings of a connection."""

    authorities: str = field(default="", repr=False)
    """The only certificates to trust, in PEM; if empty, the system's are trusted."""
    verify: bool = True
    proxies: Proxies = NO_PROXIES
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S
    floor_bytes_s: int = FLOOR_BYTES_S
    names: SettingNames = field(default_factory=SettingNames, compare=False)

    def attempt_s(self, size_bytes: int) -> float:
        """How long one attempt may take: to connect, and to receive a body of this size."""
        begin_s = self.connect_timeout_s + self.read_timeout_s
        return begin_s + size_bytes / self.floor_bytes_s
