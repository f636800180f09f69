"""The contract that every kind of source fulfils.

Owns the types between the kinds of sources and everybody else; leaves the choice of a kind to
`registry.py`. Fetch workers of the daemon and, without a daemon, the client read through it.
Implementations are thread-safe: several threads read different blocks of one `Reader` at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from streamer_client.contract.errors import SourceNotFound


class BucketNotFound(SourceNotFound):
    """The bucket or container of a source does not exist, so that nothing of it can be listed.

    It has the code of `SourceNotFound` and arrives as that where it crosses the socket.
    """


class StoredShard(msgspec.Struct, frozen=True):
    """One file or object, and what proves its content."""

    uri: str
    """An absolute path for a local file, else `scheme://...`."""
    size_bytes: int
    identity: str
    """Changes whenever the content may have changed."""
    validated: bool = True
    """False where only the size tells one content from another; then each load reads it anew."""
    looked_at: bool = True
    """False where only a listing told of it. Whoever may list it may still not be allowed to read
    it, so its bytes may be given out only after a request for the object itself."""


Arrived = Callable[[memoryview], object]


class Reader(Protocol):
    """One opened shard of a known identity."""

    @property
    def piece_bytes(self) -> int:
        """How long each read should be; 0: as long as possible, since each costs a request."""
        ...

    @property
    def retries(self) -> int:
        """How many requests were repeated so far, by all threads together."""
        ...

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        """Fill the whole of `buffer` from byte `start` on.

        Args:
            buffer: is filled in order.
            start: place of its first byte in the shard.
            arrived: called with each part of `buffer` once that is filled, in order, no part twice.
                Whoever looks at the bytes then finds them in the processor's cache.

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


class SourceEnvironment(Protocol):
    """Finds the environment that the reading of one source needs. Runs in the client's process."""

    def resolved(self) -> dict[str, str]:
        """The variables to send with an open: credentials, region, endpoint, options.

        Empty for files. Credentials are resolved in the client's process, which has the profiles,
        token files and metadata services, so that the daemon needs none of them. A call is cheap;
        it returns renewed values where the earlier ones are about to expire.

        Raises:
            ConfigError: a profile, region or endpoint is malformed or unknown.
            SourceForbidden: configured credentials could not be obtained; the text says why.
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

        Where each read proves the content, nothing is asked here, and the first read raises.

        Raises:
            SourceChanged: it is no longer what `shard.identity` says, or it vanished.
            SourceForbidden: no permission.
        """
        ...


@dataclass(frozen=True, slots=True)
class CredentialsReport:
    """What `streamerctl doctor` tells of an environment's credentials; never a secret."""

    state: Literal["ok", "note", "warn"]
    text: str
    remedy: str = ""


def names_alone(environment: Mapping[str, str]) -> CredentialsReport | None:
    """The report of a kind that has no better one: only names, since a value may be a secret."""
    if not environment:
        return None
    return CredentialsReport("note", f"sent along with an open: {', '.join(sorted(environment))}")


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source: all that the rest of the program asks of it.

    Each kind has one, `KIND`, in the module that the table in `registry.py` names.
    """

    storage: Callable[[Mapping[str, str]], Storage]
    """Makes a storage of the environment that a client sent."""
    environment: Callable[[str, Mapping[str, str]], SourceEnvironment]
    """Takes a source or shard, and all variables of the client's process."""
    public_uri: Callable[[str], str]
    """The source or shard as it may be sent, stored, logged and shown."""
    credentials: Callable[[Mapping[str, str]], CredentialsReport | None] = names_alone
    """Describes an environment's credentials; None where there is nothing to tell."""
    late_modules: tuple[str, ...] = ()
    """Modules that reading imports only when the first request is made, for they are large."""
    is_object_store: bool = False
    """Whether it can list whatever lies under a prefix, over a network."""
