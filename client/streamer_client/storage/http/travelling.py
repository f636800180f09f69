"""What travels along whatever the store is: how to connect, and how patient to be."""

from __future__ import annotations

from collections.abc import Mapping

from streamer_client.storage.http import retry, settings
from streamer_client.storage.http.authorities import authorities_of


def http_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those that are set, and in place of a bundle's path the certificates in it.

    Raises:
        ConfigError: the bundle cannot be used.
    """
    names = (*settings.VARIABLES, *retry.VARIABLES)
    found = {name: environ[name] for name in names if environ.get(name)}
    return found | authorities_of(environ)
