"""The contract that every kind of source fulfils.

Used by the daemon's fetch workers and, without a daemon, by the client itself. Implementations are
thread-safe: several threads read different blocks of one `Reader` at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class StoredShard(msgspec.Struct, frozen=True):
    """One file or object, and what proves its content."""

    uri: str
    """Absolute path for local files, `scheme://...` else."""
    size_bytes: int
    identity: str
    """Changes whenever the content may have changed."""


class Reader(Protocol):
    """One opened shard of a known identity."""

    @property
    def piece_bytes(self) -> int:
        """What is best asked for at once by who can choose; 0: all of it, each request costs."""
        ...

    def readinto(self, buffer: memoryview, start: int) -> int:
        """Fill the whole of `buffer` from byte `start` on.

        Returns:
            Bytes that came from the device or the network rather than from the page cache, as far
            as the reader can tell (-1: cannot tell).

        Raises:
            SourceChanged: the object is not what it was, or ended early.
            SourceError: it could not be read.
        """
        ...

    def close(self) -> None:
        """Give the descriptor or connection back. Idempotent."""
        ...


class Storage(Protocol):
    """One kind of source."""

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        """The shards of a source, in natural order of their names (part-2 before part-10).

        `files` (in the order given) wins over `pattern`, a glob on names directly under `source`,
        by default `*.safetensors`. A `source` that is itself a file is its only shard.

        Raises:
            SourceNotFound: nothing there; the text names pattern and what is there instead.
            SourceForbidden: no permission.
            SourceError: a directory in place of a file, a dead link, and so on.
        """
        ...

    def open(self, shard: StoredShard) -> Reader:
        """Open a shard for reading.

        Raises:
            SourceChanged: it is no longer what `shard.identity` says, or it vanished.
            SourceForbidden: no permission.
        """
        ...
