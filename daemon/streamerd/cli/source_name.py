"""Makes the names of sources absolute, since the daemon's working directory is not the user's."""

from __future__ import annotations

import os

from streamer_client.contract.uris import has_scheme
from streamer_client.storage.os_errors import absolute_path
from streamer_client.storage.registry import public_uri


def absolute_source(source: str) -> str:
    """The source's URI as it is, or its path made absolute against this working directory."""
    return source if has_scheme(source) else absolute_path(os.path.expanduser(source))


def public_source(source: str) -> str:
    """The source as the daemon stores and shows it: absolute, without the secrets of its URL."""
    return public_uri(absolute_source(source))
