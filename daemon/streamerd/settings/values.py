"""Parses the settings with structured values: the metrics' address and the list of prefetches.

This module owns what a user may write for these settings and the values that follow; the keys are
in `table.py`. A `ValueError` says what is wrong with a value, and `config.py` adds the key and the
origin. Pure.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Final

import msgspec

from streamer_client.contract.uris import is_remote, scheme_of
from streamer_client.storage.registry import KINDS, public_uri

LOOPBACK: Final = "127.0.0.1"
_HOST_PORT: Final = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:.]+\]|[\w.-]+):|:)?(?P<port>\d{1,5})")


class Prefetched(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source that is brought in when the daemon starts."""

    source: str
    pattern: str | None = None
    """A glob on file names; None for all files."""
    pin: bool = False


def listen_address(given: object) -> str:
    """Parse an address: `HOST:PORT`, an absolute path, or a port, which means one on loopback.

    Raises:
        ValueError: the value is none of these.
    """
    text = str(given).removeprefix("unix:")
    if not text or os.path.isabs(text):
        return text
    known = isinstance(given, str | int) and not isinstance(given, bool)
    match = _HOST_PORT.fullmatch(text) if known else None
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise ValueError(f"{text!r} is no address")
    return f"{match['host'] or LOOPBACK}:{match['port']}"


def prefetch_list(given: object) -> tuple[Prefetched, ...]:
    """Parse the sources to bring in, given as a list or as one text.

    Raises:
        ValueError: an entry is no source, or a path that is not absolute.
    """
    entries = json.loads(given) if isinstance(given, str) and given.startswith("[") else given
    if isinstance(entries, str):
        entries = [entries] if entries else []
    listed = msgspec.convert(entries, list[str | dict[str, Any]])
    found = [{"source": each} if isinstance(each, str) else each for each in listed]
    sources = msgspec.convert(found, tuple[Prefetched, ...])
    for each in sources:
        if "\0" in each.source:
            raise ValueError(f"{public_uri(each.source)!r} has a NUL, which no name can have")
        if not os.path.isabs(each.source) and not is_remote(each.source):
            raise ValueError(f"{public_uri(each.source)!r} is neither an absolute path nor a URI")
        if scheme_of(each.source) not in KINDS:
            schemes = ", ".join(f"{name}://" for name in sorted(KINDS) if name)
            raise ValueError(f"{public_uri(each.source)!r} is of no kind that is read: {schemes}")
    return sources
