"""How sources and shards are named: absolute paths, or URIs with a scheme. Pure."""

from __future__ import annotations

import re
from typing import Final

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def has_scheme(source: str) -> bool:
    """Whether a source is a URI rather than a path."""
    return _SCHEME.match(source) is not None


def is_remote(source: str) -> bool:
    """Whether reading a source takes a network, and so connections and credentials."""
    return scheme_of(source) != ""


def scheme_of(source: str) -> str:
    """The kind of store, in lower case; empty for a path and for `file://`."""
    match = _SCHEME.match(source)
    scheme = match[1].lower() if match else ""
    return "" if scheme == "file" else scheme
