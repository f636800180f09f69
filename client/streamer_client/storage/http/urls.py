"""URLs: their form without secrets, their origins, and the forms that users write. Pure.

Owns the parsing of absolute http:// and https:// URLs, for every kind of store that is read over
HTTP. Knows no store and no connection.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from streamer_client.contract.errors import ConfigError

# Parameters of presigned URLs of Amazon (both versions), Google, CloudFront and Azure, and other
# services' names for a token.
_HIDDEN: Final = (
    r"x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|"
    r"awsaccesskeyid|googleaccessid|[\w.-]*token|[\w.-]*secret|password|policy|key-pair-id|"
    r"api[_-]?key"
)
_HIDDEN_PARAMETER: Final = re.compile(rf"(?i)(?<=[?&;#])({_HIDDEN})=[^&;#\s\"'<>]*")
_USERINFO: Final = re.compile(
    r"(?<=://)(?:"
    # This is user information up to the host, as it should be written.
    r"[^/?#\s@\"']*@|"
    # A password with / ? # in it ends where a URL's host would. It is recognised because the text
    # after the colon is no port; then everything up to the last @ may belong to it.
    r"[^/?#\s@\"':\[\]]*:(?!\d*(?:[/?#\s\"']|$))[^\s\"']*@)"
)


def shown(text: str) -> str:
    """The text, with user names, passwords, tokens and signatures removed from its URLs."""
    return _HIDDEN_PARAMETER.sub(r"\1=***", _USERINFO.sub("", text))


def without_secrets(url: str) -> str:
    """The URL without user information and without parameters that carry a secret.

    The rest names the object and no more, so that two signatures of one object give the same text.
    A fragment, which is never sent to a server, is removed too.
    """
    base, question, query = without_user(url).partition("#")[0].partition("?")
    kept = "&".join(part for part in query.split("&") if not is_secret(part))
    return base + (question + kept if kept else "")


def without_user(uri: str) -> str:
    """The URI without user information, which is in an object's URI only by mistake."""
    return _USERINFO.sub("", uri, count=1)


def is_secret(parameter: str) -> bool:
    """Whether one `name=value` of a query is, or belongs to, a signature or token."""
    name = parameter.partition("=")[0].lower()
    return name.startswith(("x-amz-", "x-goog-")) or bool(re.fullmatch(_HIDDEN, name))


def endpoint_of(url: str) -> str:
    """The URL's `scheme://host:port`, for the text of errors."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


MALFORMED: Final = (
    "host and port cannot be told; write a port as a number, an IPv6 address in brackets, and "
    "/ ? # @ of a password as %2F %3F %23 %40"
)
"""This replaces urllib's own words, which would repeat a part of a password as the port."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port, which one connection serves."""

    scheme: str
    host: str
    """The host in lower case; an IPv6 address has no brackets."""
    port: int

    @property
    def authority(self) -> str:
        """The value of the Host header; it has the port only if that is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def origin_of(url: str) -> Origin:
    """The origin of an absolute URL.

    Raises:
        ConfigError: the URL is not http:// or https:// with a host and a valid port.
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
    """Path and query, in the form of the request line."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


_THIS_HOST: Final = "localhost"


def parse_endpoint(name: str, text: str, *, scheme: str = "https") -> str:
    """Parse a user's endpoint into `scheme://host[:port][/path]` without a slash at its end.

    Args:
        name: name of the variable, for the text of errors.
        text: value of the variable, with or without a scheme.
        scheme: the scheme if the value has none.

    Raises:
        ConfigError: the value is no endpoint.
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
    """Refuse to send a token in plain text over a network, where whoever reads it can use it.

    Signatures are not refused, because each is valid for one request only. Plain text within this
    machine is allowed.

    Args:
        name: name of the variable that gives the endpoint.
        endpoint: URL that the token would be sent to.

    Raises:
        ConfigError: the token would be sent in plain text over a network.
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
