"""URLs: how they are shown without secrets, where they lead, how users write them. Pure.

Owns the taking apart of absolute http:// and https:// URLs, for every kind of store that is read
over HTTP. Knows no store and no connection.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from streamer_client.contract.errors import ConfigError

# Parameters of presigned URLs of Amazon (both versions), Google, CloudFront and Azure, and what
# others call a token.
_HIDDEN: Final = (
    r"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|"
    r"awsaccesskeyid|googleaccessid|[\w.-]*token|[\w.-]*secret|password|policy|key-pair-id|"
    r"api[_-]?key"
)
_HIDDEN_PARAMETER: Final = re.compile(rf"(?i)(?<=[?&;#])({_HIDDEN})=[^&;#\s\"'<>]*")
_USERINFO: Final = re.compile(
    r"(?<=://)(?:"
    # up to the host, as it should be written
    r"[^/?#\s@\"']*@|"
    # A password with / ? # in it ends where a URL's host would: what follows the colon is no port,
    # and up to the last @ everything may belong to it.
    r"[^/?#\s@\"':\[\]]*:(?!\d*(?:[/?#\s\"']|$))[^\s\"']*@)"
)


def shown(text: str) -> str:
    """The text with user names, passwords, tokens and signatures taken out of its URLs."""
    return _HIDDEN_PARAMETER.sub(r"\1=***", _USERINFO.sub("", text))


def without_secrets(url: str) -> str:
    """The URL without user information and without parameters that carry a secret.

    What is left names the object and no more: two signatures of one object give the same text. So a
    fragment, which no server is ever sent, goes too.
    """
    base, question, query = without_user(url).partition("#")[0].partition("?")
    kept = "&".join(part for part in query.split("&") if not is_secret(part))
    return base + (question + kept if kept else "")


def without_user(uri: str) -> str:
    """The URI without user information, which stands in an object's URI by mistake alone."""
    return _USERINFO.sub("", uri, count=1)


def is_secret(parameter: str) -> bool:
    """Whether one `name=value` of a query is, or belongs to, a signature or token."""
    name = parameter.partition("=")[0].lower()
    return name.startswith(("x-amz-", "x-goog-")) or bool(re.fullmatch(_HIDDEN, name))


def endpoint_of(url: str) -> str:
    """`scheme://host:port` of a URL, to be named in errors."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


MALFORMED: Final = (
    "host and port cannot be told; write a port as a number, an IPv6 address in brackets, and "
    "/ ? # @ of a password as %2F %3F %23 %40"
)
"""urllib's own words would repeat a part of the password for the port that it takes it for."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what one connection serves."""

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


_THIS_HOST: Final = "localhost"


def parse_endpoint(name: str, text: str, *, scheme: str = "https") -> str:
    """`scheme://host[:port][/path]` without a slash at its end.

    Args:
        name: of the variable, for errors.
        text: its value, with or without a scheme.
        scheme: of a value that has none.

    Raises:
        ConfigError: it is something else.
    """
    text = text.strip()
    url = (text if "://" in text else f"{scheme}://{text}").rstrip("/")
    try:
        origin = origin_of(url)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    if any(sign in url for sign in "?#@"):
        raise ConfigError(
            f"{name}={shown(url)}: an endpoint has no user, query or fragment; write "
            "https://host[:port]"
        )
    path = url.partition("://")[2].partition("/")[2]
    return f"{origin}/{path}" if path else str(origin)


def check_bearer(name: str, endpoint: str) -> None:
    """Refuse to send a token in plain text over a network: whoever reads it there can use it.

    Signatures are not refused, because each is valid for one request. Plain text within this
    machine is allowed.

    Args:
        name: of the variable that gives the endpoint.
        endpoint: where the token would be sent.

    Raises:
        ConfigError: it would be sent in plain text over a network.
    """
    origin = origin_of(endpoint)
    if origin.scheme == "http" and not _is_this_host(origin):
        raise ConfigError(
            f"{name}={endpoint}: a token would be sent in plain text; write https://, or read "
            "without credentials"
        )


def _is_this_host(origin: Origin) -> bool:
    try:
        return ipaddress.ip_address(origin.host).is_loopback
    except ValueError:
        return origin.host == _THIS_HOST
