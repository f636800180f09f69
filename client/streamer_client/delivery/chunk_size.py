"""How much is read at once where no daemon's block size decides it: Run:ai's variable. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES, PAGE_BYTES
from streamer_client.contract.uris import is_remote

CHUNK_ENV: Final = "RUNAI_STREAMER_CHUNK_BYTESIZE"

MIN_FILE_BYTES: Final = 2 << 20
MIN_OBJECT_BYTES: Final = 5 << 20
"""The least that Run:ai reads at once, from files and from object stores."""


def chunk_bytes(uri: str, environ: Mapping[str, str]) -> int:
    """Bytes of one read or request: whole pages, so that reads may go past the page cache.

    Raises:
        ConfigError: the variable is not a positive integer.
    """
    text = environ.get(CHUNK_ENV, "").strip()
    if not text:
        return DEFAULT_BLOCK_BYTES
    try:
        size_bytes = int(text)
    except ValueError as error:
        raise ConfigError(f"{CHUNK_ENV} is {text!r}; it must be a number of bytes") from error
    if size_bytes <= 0:
        raise ConfigError(f"{CHUNK_ENV} is {size_bytes}; it must be a positive number of bytes")
    size_bytes = max(size_bytes, MIN_OBJECT_BYTES if is_remote(uri) else MIN_FILE_BYTES)
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
