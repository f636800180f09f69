"""How connections are made: certificates, proxies, timeouts; by a caller's variables. Pure.

Hashable, so that all who connect in the same way share their connections. Holds no credentials of
a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.proxies import NO_PROXIES, Proxies, proxies_of

CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
"""Without a single byte. Run:ai's default of one second is what its users stumble over."""

FLOOR_BYTES_S: Final = 64 << 10
"""What an answer has to bring on the average. 32 connections that share a line of 20 Mbit/s have 76
KiB/s each; a block of 8 MiB may take two minutes more than its beginning. What had come of it
stays, so that a line half as fast still gets it in the attempts that follow."""

AUTHORITIES: Final = "STREAMER_TLS_AUTHORITIES"
"""Certificates in PEM to trust instead of the system's: what stands in the file that the caller's
`AWS_CA_BUNDLE` or `SSL_CERT_FILE` names. Nobody sets it by hand; see `authorities.py`."""

VARIABLES: Final = (
    "STREAMER_TLS_VERIFY",
    "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS",
    *(
        name
        for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        for name in (proxy, proxy.upper())
    ),
)
"""What travels with an open as the caller has it set."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How to connect."""

    authorities: str = field(default="", repr=False)
    """Certificates in PEM, the only ones to trust; empty: the system's."""
    verify: bool = True
    proxies: Proxies = NO_PROXIES
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S
    floor_bytes_s: int = FLOOR_BYTES_S

    def attempt_s(self, size_bytes: int) -> float:
        """How long one attempt may take: to connect, to begin, and for a body of this size."""
        begin_s = self.connect_timeout_s + self.read_timeout_s
        return begin_s + size_bytes / self.floor_bytes_s


def http_settings(environment: Mapping[str, str]) -> HttpSettings:
    """Read the variables.

    `STREAMER_TLS_VERIFY=0` alone turns the verification of certificates off.

    Raises:
        ConfigError: one of them is malformed; the text names it.
    """
    return HttpSettings(
        authorities=environment.get(AUTHORITIES, ""),
        verify=flag(environment, "STREAMER_TLS_VERIFY", default=True),
        proxies=proxies_of(environment),
        read_timeout_s=_timeout_s(environment),
    )


def flag(environment: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A variable that is 0 or 1, or false or true.

    Raises:
        ConfigError: it is something else.
    """
    text = environment.get(name, "").strip().lower()
    if not text:
        return default
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{name}={text!r}: neither 0 nor 1; set one of them, or unset it")


def whole_number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable that is a number of at least 0; None where it is not set.

    Raises:
        ConfigError: it is something else.
    """
    text = environment.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{name}={text!r}: not a whole number; give one, or unset it")
    return int(text)


def _timeout_s(environment: Mapping[str, str]) -> float:
    timeout_ms = whole_number(environment, "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS")
    return timeout_ms / 1000 if timeout_ms else READ_TIMEOUT_S
