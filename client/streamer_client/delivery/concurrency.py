"""How many threads copy and read, and how much a reader takes at once.

Owns these choices alone; who starts the threads is left to those who ask. Any thread may ask.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES, PAGE_BYTES
from streamer_client.contract.uris import is_remote

MAX_COPY_THREADS: Final = 8
"""More threads do not copy faster: the host's memory bandwidth is the limit by then."""
MAX_READ_THREADS: Final = 16

CHUNK_ENV: Final = "RUNAI_STREAMER_CHUNK_BYTESIZE"

MIN_FILE_BYTES: Final = 2 << 20
MIN_OBJECT_BYTES: Final = 5 << 20
"""The least that Run:ai reads at once, from files and from object stores."""


def copy_threads() -> int:
    """Threads that copy from memory to memory."""
    return min(MAX_COPY_THREADS, len(os.sched_getaffinity(0)))


def read_threads(asked: int | None, *, remote: bool = False) -> int:
    """Threads that read from storage; they mostly wait, so there may be more than processors.

    A remote source has a connection for each, and those wait even more.

    Args:
        asked: how many the user asked for; None leaves the choice to this function.
        remote: whether the source is read over the network.
    """
    if remote:
        return asked or MAX_READ_THREADS
    return asked or min(MAX_READ_THREADS, 4 * len(os.sched_getaffinity(0)))


def chunk_bytes(uri: str, environ: Mapping[str, str]) -> int:
    """What Run:ai's variable asks for, where no daemon's block size decides.

    The bytes of one read or request are whole pages, so that reads may go past the page cache.

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
