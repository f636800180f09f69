"""Decides which shard a local file is, by the kernel's identity of the file, never by a name. Pure.

Two names of one file are one shard. A file that was rewritten in place is another shard under the
same `uri`, so that the core drops the older content. A rewritten file may look the same to `fstat`,
if its size and time of last change were kept, and differ in its bytes alone. Then the next
*edition* of that identity begins.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from streamerd.state.events import ShardKey

KNOWN: Final = 16_384
"""Number of identities whose split is cached, since each open asks for each several times."""
_OWNER: Final = "uid"
_EDITION: Final = "#"
_TWIN: Final = "="


class Editions:
    """The newest edition of each identity. `note` adds the editions of adopted shards."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str, str], int] = {}

    def key_of(self, identity: str) -> ShardKey:
        """The shard of a file with this identity (`storage.local_reader.identity_of`)."""
        return edition_key(identity, self._newest.get(_split(identity), 0))

    def supersede(self, key: ShardKey) -> None:
        """Begin the next edition of a file that has other bytes now; loads opened later get it."""
        content, edition = edition_of(key)
        self._begin(key.uri, content, edition + 1)

    def note(self, keys: Iterable[ShardKey]) -> None:
        """Remember the editions of adopted shards, so that later editions follow them."""
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
    """Identity and edition of a shard. An object needs no editions, and always has 0."""
    content, mark, edition = key.identity.rpartition(_EDITION)
    return (content, int(edition)) if mark and edition.isdecimal() else (key.identity, 0)


def twin(key: ShardKey, number: int) -> ShardKey:
    """A shard of its own for the second and further names of one file in one load.

    A load leases each shard once, so a load that names one file twice reads it twice.
    """
    return ShardKey(f"{key.uri}{_TWIN}{number}", key.identity)


@functools.lru_cache(maxsize=KNOWN)
def _split(identity: str) -> tuple[str, str]:
    """Split an identity into the part for the file and the part for its content.

    The first part is device and inode, for FUSE also the user; the second tells contents apart.
    """
    kind, device, inode, *rest = identity.split(":")
    owner = [part for part in rest if part.startswith(_OWNER)]
    content = [part for part in rest if not part.startswith(_OWNER)]
    return ":".join((kind, device, inode, *owner)), ":".join(content)
