"""The contract that every kind of source fulfils.

Used by the daemon's fetch workers and, without a daemon, by the client itself. Implementations are
thread-safe: several threads read different blocks of one `Reader` at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec


class StoredShard(msgspec.Struct, frozen=True):
    """One file or object, and what proves its content."""

    uri: str
    """Absolute path for local files, `scheme://...` else."""
    size_bytes: int
    identity: str
    """Changes whenever the content may have changed."""
    validated: bool = True
    """False where nothing but its size tells one content from another, so that it has to be read
    anew each time."""


class Reader(Protocol):
    """One opened shard of a known identity."""

    @property
    def piece_bytes(self) -> int:
        """What is best asked for at once by who can choose; 0: all of it, each request costs."""
        ...

    @property
    def retries(self) -> int:
        """Requests that were made again so far, over all threads; 0 where nothing is retried."""
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


class CallerEnvironment(Protocol):
    """What of a caller's process the reading of a source depends on; see `registry.py`."""

    def variables(self) -> dict[str, str]:
        """Names and values to send along with an open: credentials, region, endpoint, options.

        Empty for files. Credentials are resolved where the caller runs (profiles, token files,
        metadata services), so that whoever reads needs nothing else. Cheap; asked again, it gives
        renewed values where the earlier ones are about to expire.

        Raises:
            ConfigError: a profile, region or endpoint is malformed or unknown.
            SourceForbidden: credentials were asked for and cannot be had; says where was looked.
        """
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

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """Every file or object under `source`, at any depth, in natural order of the names.

        For what is not weights: configuration, tokenizer, code. Hidden names are included.

        Args:
            source: a directory or prefix, or a file itself.
            take: asked of each URI before the object is looked at, which costs a request; None
                takes all.

        Raises:
            SourceNotFound: nothing there.
            SourceForbidden: no permission.
            SourceError: it cannot be listed for another reason.
        """
        ...

    def open(self, shard: StoredShard) -> Reader:
        """Open a shard for reading.

        Raises:
            SourceChanged: it is no longer what `shard.identity` says, or it vanished.
            SourceForbidden: no permission.
        """
        ...
