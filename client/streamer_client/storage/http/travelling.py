"""What travels along whatever the store is: how to connect, and how patient to be."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from streamer_client.storage.http import retry, settings

_PATHS: Final = ("AWS_CA_BUNDLE", "SSL_CERT_FILE")


def http_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Those that are set; paths made absolute, since the reader has another working directory."""
    names = (*settings.VARIABLES, *retry.VARIABLES)
    found = {name: environ[name] for name in names if environ.get(name)}
    for name in _PATHS:
        if name in found:
            found[name] = os.path.abspath(os.path.expanduser(found[name]))
    return found
