"""How many threads copy and read, and how many bytes a reader takes at once.

Owns only these choices; the callers start the threads. Any thread may call.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamer_client.contract.layout import DEFAULT_BLOCK_BYTES, PAGE_BYTES
from streamer_client.contract.uris import is_remote

MAX_COPY_THREADS: Final = 8
"""More threads do not copy faster, because the host's memory bandwidth is then the limit."""
MAX_READ_THREADS: Final = 16

CHUNK_ENV: Final = "RUNAI_STREAMER_CHUNK_BYTESIZE"

MIN_FILE_BYTES: Final = 2 << 20
MIN_OBJECT_BYTES: Final = 5 << 20
"""The least that Run:ai reads at once, from files and from object stores."""


def copy_threads() -> int:
    """How many threads copy from memory to memory."""
    return min(MAX_COPY_THREADS, len(os.sched_getaffinity(0)))


def read_threads(asked: int | None, *, remote: bool = False) -> int:
    """How many threads read from storage; they mostly wait, so they may outnumber processors.

    A remote source has a connection for each thread, and these threads wait even more.

    Args:
        asked: the number that the user asked for; None leaves the choice to this function.
        remote: whether the source is read over the network.
    """
    if remote:
        return asked or MAX_READ_THREADS
    return asked or min(MAX_READ_THREADS, 4 * len(os.sched_getaffinity(0)))


def chunk_bytes(uri: str, environ: Mapping[str, str]) -> int:
    """How many bytes to read at once without a daemon, as Run:ai's variable says.

    The number is rounded to whole pages, so that reads may bypass the page cache.

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
