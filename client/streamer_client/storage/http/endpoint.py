"""The URL of a store's interface, as users write it; whether a token may be sent there. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.storage.http.origin import Origin, origin_of
from streamer_client.storage.http.shown import shown

_THIS_HOST: Final = "localhost"


def endpoint_url(name: str, text: str, *, scheme: str = "https") -> str:
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
            f"{name}={shown(url)}: neither user, query nor fragment belong into an endpoint; "
            "write https://host[:port]"
        )
    path = url.partition("://")[2].partition("/")[2]
    return f"{origin}/{path}" if path else str(origin)


def check_bearer(name: str, endpoint: str) -> None:
    """A token alone opens the store to whoever reads it on its way, so it goes by TLS.

    A signature would not; only this machine itself is spoken to in plain text.

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
