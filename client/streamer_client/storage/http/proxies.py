"""Chooses the proxy to an origin by the customary variables. Pure.

`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read in small letters first, then in
capitals. curl ignores `HTTP_PROXY` in capitals, because a CGI program gets that from its caller. No
part of streamerd is a CGI program, so the variable counts here.

The value of a variable is parsed only when a connection would go through that proxy. So a SOCKS
proxy that is meant for other programs, or a proxy that `NO_PROXY` rules out, is no error.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.urls import MALFORMED, Origin, shown


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; TLS goes through a CONNECT tunnel."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)
    """The value of Proxy-Authorization; empty if there is none."""
    variable: str = field(default="HTTPS_PROXY", compare=False)
    """The variable that names the proxy, for the text of errors."""

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ProxyVariable:
    """A variable that names a proxy, and its value, which is not parsed yet."""

    variable: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies that the variables name."""

    http: ProxyVariable | None = None
    https: ProxyVariable | None = None
    none_for: tuple[str, ...] = ()
    """The entries of `NO_PROXY`, in lower case."""

    def of(self, origin: Origin) -> Proxy | None:
        """The proxy to use for `origin`; None to connect to it directly.

        Raises:
            ConfigError: the proxy that would be used is no http:// URL; the text names the
                variable that was set.
        """
        named = self.https if origin.scheme == "https" else self.http
        if named is None or any(_covers(rule, origin) for rule in self.none_for):
            return None
        return _proxy(named, origin)


NO_PROXIES: Final = Proxies()


def proxies_of(environment: Mapping[str, str]) -> Proxies:
    """Read the variables, without parsing their values."""

    def named(*names: str) -> ProxyVariable | None:
        both = (spelled for name in names for spelled in (name, name.upper()))
        is_set = (name for name in both if environment.get(name))
        return next((ProxyVariable(name, environment[name]) for name in is_set), None)

    exceptions = named("no_proxy")
    rules = exceptions.value.split(",") if exceptions else []
    return Proxies(
        named("http_proxy", "all_proxy"),
        named("https_proxy", "all_proxy"),
        tuple(rule.strip().lower() for rule in rules if rule.strip()),
    )


def _proxy(named: ProxyVariable, origin: Origin) -> Proxy:
    text = named.value if "://" in named.value else f"http://{named.value}"
    said = f"{named.variable}={shown(text)}"
    past = f"add {origin.host} to NO_PROXY to go past the proxy"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"{said}: not a URL: {MALFORMED}; or {past}") from None
    if parts.scheme != "http" or not host:
        raise ConfigError(
            f"{said}: {origin} would be reached through it, and only http:// proxies are known "
            f"(TLS goes through them by CONNECT); write http://[user:password@]host:port, or {past}"
        )
    return Proxy(host, port or 80, _basic(parts.username, parts.password), named.variable)


def _basic(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    pair = f"{unquote(user)}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _covers(rule: str, origin: Origin) -> bool:
    """Whether a NO_PROXY entry covers this origin: `*`, a name with all below it, or a network."""
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
