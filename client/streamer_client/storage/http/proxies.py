"""Which proxy leads to an origin, by the customary variables. Pure.

`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not; small letters win, as
in curl. `HTTP_PROXY` in capitals is not special here: nothing of this is a CGI program.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.origin import MALFORMED, Origin
from streamer_client.storage.http.shown import shown


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; TLS goes through it by a CONNECT tunnel."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """Value of Proxy-Authorization; empty for none."""

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Proxies:
    """What the variables say."""

    http: Proxy | None = None
    https: Proxy | None = None
    none_for: tuple[str, ...] = ()

    def of(self, origin: Origin) -> Proxy | None:
        """The proxy to use for `origin`; None: connect to it directly."""
        proxy = self.https if origin.scheme == "https" else self.http
        if proxy is None or any(_covers(rule, origin) for rule in self.none_for):
            return None
        return proxy


NO_PROXIES: Final = Proxies()


def proxies_of(environment: Mapping[str, str]) -> Proxies:
    """Read the variables.

    Raises:
        ConfigError: a proxy is no http:// URL.
    """

    def value(name: str) -> str:
        return environment.get(name.lower()) or environment.get(name.upper()) or ""

    everything = value("all_proxy")
    return Proxies(
        _proxy("HTTP_PROXY", value("http_proxy") or everything),
        _proxy("HTTPS_PROXY", value("https_proxy") or everything),
        tuple(rule.strip().lower() for rule in value("no_proxy").split(",") if rule.strip()),
    )


def _proxy(name: str, text: str) -> Proxy | None:
    if not text:
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{name}={_told(text)}: not a URL: {MALFORMED}") from None
    if parts.scheme != "http" or not host:
        raise ConfigError(
            f"{name}={_told(text)}: only http:// proxies are known (TLS goes through them by "
            "CONNECT); write http://[user:password@]host:port"
        )
    return Proxy(host, port or 80, _basic(parts.username, parts.password))


def _told(text: str) -> str:
    """The value as it may be shown, also where it has no scheme."""
    return shown(text if "://" in text else f"http://{text}")


def _basic(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _covers(rule: str, origin: Origin) -> bool:
    """Whether a NO_PROXY entry means this origin: `*`, a name and what is below, or a network."""
    if rule == "*":
        return True
    try:
        return ipaddress.ip_address(origin.host) in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        pass
    name, colon, port = rule.rpartition(":")
    if colon and port.isdigit():
        if int(port) != origin.port:
            return False
        rule = name
    bare = rule.strip("[]").removeprefix("*").removeprefix(".")
    return origin.host == bare or origin.host.endswith(f".{bare}")
