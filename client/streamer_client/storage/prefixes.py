"""Finds the shards of a source where objects have keys, and prefixes stand for directories.

Owns which objects a source means; the `ObjectStore` behind it lists what there is. Runs in fetch
workers and, without a daemon, in the client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from streamer_client.contract.errors import ConfigError, SourceForbidden, SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.names import DEFAULT_PATTERN, natural_key, select, some_of
from streamer_client.storage.object_uri import ObjectUri

LOOKS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    keys: tuple[str, ...]
    """Keys of objects, without the objects that only stand for a directory."""
    prefixes: tuple[str, ...] = ()
    """Prefixes one level deeper, each once, with its slash; empty for a recursive listing."""


class ObjectStore(Protocol):
    """What one kind of store adds. Thread-safe."""

    def uri(self, text: str) -> ObjectUri:
        """Parse a source or shard.

        Raises:
            ConfigError: it is malformed.
        """
        ...

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        """What lies under a prefix: all of it, or only what is directly under it.

        Raises:
            SourceForbidden: the credentials do not allow listing.
            BucketNotFound: there is no such bucket.
        """
        ...

    def look(self, uri: ObjectUri) -> StoredShard:
        """Look at one object, with the credentials of the storage.

        Raises:
            SourceNotFound: there is no such object.
            SourceForbidden: the credentials do not allow reading it.
        """
        ...


class Prefixes:
    """The sources of one store, as its credentials allow to read them."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        """See `Storage.list_shards`. Each shard was looked at with the storage's credentials."""
        base = self._store.uri(source)
        if files is not None:
            return self._shards(self._named(base, files))
        names, below = self._names(base)
        if not names and not below:
            return self._object(base)
        wanted = pattern or DEFAULT_PATTERN
        matches = select(names, wanted)
        if not matches:
            raise SourceNotFound(
                f"{base}: no object matches {wanted!r}; there is: {some_of([*names, *below])}; "
                "check the prefix and the pattern"
            )
        return self._shards(base.under(name) for name in matches)

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """See `Storage.list_all`."""
        base = self._store.uri(source)
        keys = [key for page in self._store.pages(base, deep=True) for key in page.keys]
        if not keys:
            return tuple(s for s in self._object(base) if take is None or take(s.uri))
        found = (base.named(key) for key in sorted(keys, key=natural_key))
        return self._shards(uri for uri in found if take is None or take(str(uri)))

    def _names(self, base: ObjectUri) -> tuple[list[str], list[str]]:
        """Names of objects directly under a prefix, and of prefixes under it."""
        skip = len(base.prefix)
        try:
            pages = list(self._store.pages(base, deep=False))
        except SourceForbidden:
            # Credentials may allow reading one object and no listing, so the object is asked for.
            if self._is_object(base):
                return [], []
            raise
        names = [key[skip:] for page in pages for key in page.keys]
        below = [prefix[skip:] for page in pages for prefix in page.prefixes]
        return names, below

    def _is_object(self, uri: ObjectUri) -> bool:
        try:
            return bool(self._object(uri))
        except (SourceForbidden, SourceNotFound):
            return False

    def _object(self, uri: ObjectUri) -> tuple[StoredShard, ...]:
        """The one object that a URI means where nothing lies under it."""
        if not uri.key or uri.key.endswith("/"):
            raise SourceNotFound(
                f"{uri}: nothing lies under it; check the name and the prefix for typing errors"
            )
        try:
            return self._shards([uri])
        except SourceNotFound as error:
            told_by = str(error).removeprefix(f"{uri}: does not exist: ")
            raise SourceNotFound(
                f"{uri}: neither an object nor a prefix with objects under it: {told_by}"
            ) from error

    def _shards(self, uris: Iterable[ObjectUri]) -> tuple[StoredShard, ...]:
        wanted = list(uris)
        if len(wanted) < 2:
            return tuple(map(self._store.look, wanted))
        with ThreadPoolExecutor(min(LOOKS_AT_ONCE, len(wanted)), "object-look") as threads:
            return tuple(threads.map(self._store.look, wanted))

    def _named(self, base: ObjectUri, files: Sequence[str]) -> list[ObjectUri]:
        if not files:
            raise ConfigError(
                f"{base}: the list of files is empty; name at least one, or leave it out"
            )
        uris = [self._store.uri(name) if "://" in name else base.under(name) for name in files]
        twice = sorted({str(uri) for uri in uris if uris.count(uri) > 1})
        if twice:
            raise ConfigError(
                f"{base}: the list of files names twice: {some_of(twice)}; name each once"
            )
        return uris


class PrefixStorage(ABC):
    """Base of an object store's `Storage`: lists through the `ObjectStore` that a subclass is."""

    @abstractmethod
    def uri(self, text: str) -> ObjectUri:
        """See `ObjectStore`."""

    @abstractmethod
    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        """See `ObjectStore`."""

    @abstractmethod
    def look(self, uri: ObjectUri) -> StoredShard:
        """See `ObjectStore`."""

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        """The shards under a prefix, in natural order of their names, or `files` in their own.

        Each was looked at with the storage's credentials.

        Raises:
            BucketNotFound: no such bucket.
            SourceNotFound: no such object, or nothing that the pattern takes.
            SourceForbidden: the credentials do not allow listing or reading.
            CredentialsExpired: the credentials have expired.
            ConfigError: the source is malformed, or `files` is empty or names an object twice.
        """
        return Prefixes(self).list_shards(source, pattern, files)

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """Every object under a prefix, at any depth, or the object that `source` is.

        Raises:
            BucketNotFound: no such bucket.
            SourceNotFound: nothing there.
            SourceForbidden: the credentials do not allow listing or reading.
        """
        return Prefixes(self).list_all(source, take)
