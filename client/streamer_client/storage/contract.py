"""The contract that every kind of source fulfils.

Owns the types between the kinds of sources and everybody else; leaves the choice of a kind to
`registry.py`. Workers of the daemon and, without a daemon, the client read through it.
Implementations are thread-safe: several threads read different blocks of one `Reader` at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from streamer_client.contract.errors import SourceNotFound


class BucketNotFound(SourceNotFound):
    """The bucket or container of a source does not exist, so nothing of the source can be listed.

    It has the code of `SourceNotFound`, and so the other side of the socket raises that class.
    """


class StoredShard(msgspec.Struct, frozen=True):
    """One file or object, and the identity that proves its content."""

    uri: str
    """An absolute path for a local file, or else `scheme://...`."""
    size_bytes: int
    identity: str
    """A text that changes whenever the content may have changed."""
    validated: bool = True
    """False if only the size tells contents apart; then each load reads the shard anew."""
    looked_at: bool = True
    """False if only a listing told of the object. Credentials that allow listing may not allow
    reading, so its bytes may be given out only after a request for the object itself."""


Arrived = Callable[[memoryview], object]


class Reader(Protocol):
    """One opened shard of a known identity."""

    @property
    def piece_bytes(self) -> int:
        """How many bytes each read should take; 0 for as many as possible, to save requests."""
        ...

    @property
    def retries(self) -> int:
        """How many requests were repeated so far, by all threads together."""
        ...

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        """Fill the whole of `buffer` from byte `start` on.

        Args:
            buffer: the memory to fill, in order.
            start: offset in the shard of the buffer's first byte.
            arrived: called with each part of `buffer` once it is filled, in order, no part twice.
                The callee can then read these bytes from the processor's cache.

        Returns:
            Bytes that came from the device or the network rather than from the page cache, as far
            as the reader can tell (-1: cannot tell).

        Raises:
            SourceChanged: the object has changed, or ended early.
            SourceError: the object could not be read.
        """
        ...

    def close(self) -> None:
        """Give the descriptor or connection back. Idempotent."""
        ...


class SourceEnvironment(Protocol):
    """Finds the environment for reading one source. Runs in the client's process."""

    def resolved(self) -> dict[str, str]:
        """The variables to send with an open: credentials, region, endpoint, options.

        The result is empty for files. Credentials are resolved in the client's process, which has
        the profiles, token files and metadata services, so that the daemon needs none of them. A
        call is cheap; it returns renewed values if the earlier ones are about to expire.

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
        by default `*.safetensors`. If `source` is itself a file, that file is the only shard.

        Raises:
            SourceNotFound: nothing is there; the text names the pattern and what is there instead.
            SourceForbidden: no permission.
            SourceError: a directory in place of a file, a dead link, and so on.
        """
        ...

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """Every file or object under `source`, at any depth, in natural order of the names.

        This is for files other than weights: configuration, tokenizer, code. Hidden names are
        included.

        Args:
            source: a directory or prefix, or a single file.
            take: asked for each URI before a request for its object; None takes all.

        Raises:
            SourceNotFound: nothing is there.
            SourceForbidden: no permission.
            SourceError: the source cannot be listed for another reason.
        """
        ...

    def open(self, shard: StoredShard) -> Reader:
        """Open a shard for reading.

        If each read proves the content, nothing is asked here, and the first read raises.

        Raises:
            SourceChanged: the shard is no longer that of `shard.identity`, or has vanished.
            SourceForbidden: no permission.
        """
        ...


@dataclass(frozen=True, slots=True)
class CredentialsReport:
    """The facts about an environment's credentials that `streamerctl doctor` tells; no secrets."""

    state: Literal["ok", "note", "warn"]
    text: str
    remedy: str = ""


def names_alone(environment: Mapping[str, str]) -> CredentialsReport | None:
    """The report for a kind without a better one: only names, since a value may be a secret."""
    if not environment:
        return None
    return CredentialsReport("note", f"sent along with an open: {', '.join(sorted(environment))}")


@dataclass(frozen=True, slots=True)
class SourceKind:
    """One kind of source, with everything that the rest of the program asks of it.

    Each kind has one instance, `KIND`, in the module that the table in `registry.py` names.
    """

    storage: Callable[[Mapping[str, str]], Storage]
    """Makes a storage from the environment that a client sent."""
    environment: Callable[[str, Mapping[str, str]], SourceEnvironment]
    """Makes the `SourceEnvironment` of a source or shard from all variables of the process."""
    public_uri: Callable[[str], str]
    """Returns the source or shard in the form that may be sent, stored, logged and shown."""
    credentials: Callable[[Mapping[str, str]], CredentialsReport | None] = names_alone
    """Describes an environment's credentials; None if there is nothing to tell."""
    late_modules: tuple[str, ...] = ()
    """Large modules that reading imports only with the first request."""
    is_object_store: bool = False
    """Whether the kind can list everything under a prefix, over a network."""
