"""How connections are made: certificates, proxies, timeouts; by a caller's variables. Pure.

Hashable, so that all who connect in the same way share their connections. Holds no credentials of
a store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.proxies import NO_PROXIES, Proxies, proxies_of

CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0
"""Without a single byte. Run:ai's default of one second is what its users stumble over."""

VARIABLES: Final = (
    "AWS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "STREAMER_TLS_VERIFY",
    "RUNAI_STREAMER_S3_REQUEST_TIMEOUT_MS",
    *(
        name
        for proxy in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
        for name in (proxy, proxy.upper())
    ),
)
"""What travels with an open, where the caller has it set."""


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How to connect."""

    ca_bundle: str = ""
    """A PEM file, readable where the connection is made; empty: the system's."""
    verify: bool = True
    proxies: Proxies = NO_PROXIES
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    read_timeout_s: float = READ_TIMEOUT_S


def http_settings(environment: Mapping[str, str]) -> HttpSettings:
    """Read the variables.

    `STREAMER_TLS_VERIFY=0` alone turns the verification of certificates off.

    Raises:
        ConfigError: one of them is malformed; the text names it.
    """
    return HttpSettings(
        ca_bundle=environment.get("AWS_CA_BUNDLE") or environment.get("SSL_CERT_FILE") or "",
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
