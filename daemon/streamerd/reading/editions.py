"""Which shard a local file is: decided by the kernel's identity of the file, never by a name. Pure.

Two names of one file are one shard. A file that was rewritten in place is another shard under the
same `uri`, so that the core lets the older content go. Where a rewritten file looks the same to
`fstat` (size and time of last change were kept), and only its bytes tell, the next *edition* of the
same content begins.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from streamerd.state.events import ShardKey

KNOWN: Final = 16_384
"""Identities that are remembered in parts: each is asked for several times at every open."""
_OWNER: Final = "uid"
_EDITION: Final = "#"
_TWIN: Final = "="


class Editions:
    """The newest edition of each content; `note` adds those that were adopted."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], int] = {}

    def key_of(self, identity: str) -> ShardKey:
        """The shard of a file with this identity (`storage.local_reader.identity_of`)."""
        return edition_key(identity, self._newest.get(_split(identity), 0))

    def supersede(self, key: ShardKey) -> None:
        """The file has other bytes now: loads that are opened from now on get the next edition."""
        content, edition = edition_of(key)
        self._begin(key.uri, content, edition + 1)

    def note(self, keys: Iterable[ShardKey]) -> None:
        """Go on from the editions that were adopted."""
        for key in keys:
            content, edition = edition_of(key)
            if edition:
                self._begin(key.uri, content, edition)

    def _begin(self, uri: str, content: str, edition: int) -> None:
        known = self._newest.get((uri, content), 0)
        self._newest[uri, content] = max(known, edition)


@functools.lru_cache(maxsize=KNOWN)
def edition_key(identity: str, edition: int) -> ShardKey:
    """The shard of one edition of a file's content."""
    uri, content = _split(identity)
    return ShardKey(uri, f"{content}{_EDITION}{edition}")


def edition_of(key: ShardKey) -> tuple[str, int]:
    """Content and edition of a shard; 0 for an object, which needs no editions."""
    content, mark, edition = key.identity.rpartition(_EDITION)
    return (content, int(edition)) if mark and edition.isdecimal() else (key.identity, 0)


def twin(key: ShardKey, number: int) -> ShardKey:
    """A shard of its own for the second and further names of one file in one load.

    A load leases each shard once, so a load that names one file twice reads it twice.
    """
    return ShardKey(f"{key.uri}{_TWIN}{number}", key.identity)


@functools.lru_cache(maxsize=KNOWN)
def _split(identity: str) -> tuple[str, str]:
    """Two parts: device and inode (for FUSE also the user), and what tells contents apart."""
    kind, device, inode, *rest = identity.split(":")
    owner = [part for part in rest if part.startswith(_OWNER)]
    content = [part for part in rest if not part.startswith(_OWNER)]
    return ":".join((kind, device, inode, *owner)), ":".join(content)
