"""Finds the shards of a source where objects have keys, and prefixes stand for directories.

Owns which objects a source means, and which of them are looked at; the `ObjectStore` behind it
lists what there is. Runs in fetch workers and, without a daemon, in the client.

Where a listing proves contents, one object of it is looked at and the others are taken as listed:
the largest, since what was uploaded in parts is what stores list differently. If it differs, each
object is looked at.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from streamer_client.contract.errors import (
    ConfigError,
    SourceError,
    SourceForbidden,
    SourceNotFound,
)
from streamer_client.contract.limits import MAX_LISTING_PAGES
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.names import DEFAULT_PATTERN, natural_key, select, some_of
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.remembered import DOUBTED_LISTINGS, place_of

LOOKS_AT_ONCE: Final = 16
"""So many objects are looked at side by side, as each costs a connection for one delay."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One entry of a listing."""

    key: str
    size_bytes: int = 0
    identity: str = ""
    """What a HEAD would make the object's identity; empty where the listing does not prove it."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    objects: tuple[ListedObject, ...]
    """Without the objects that only stand for a directory."""
    prefixes: tuple[str, ...] = ()
    """Prefixes one level deeper, each once, with its slash; empty for a recursive listing."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the objects."""
        return tuple(listed.key for listed in self.objects)


Wanted = tuple[ObjectUri, ListedObject]
"""An object that is meant, and what a listing tells of it."""


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
        """See `Storage.list_shards`."""
        base = self._store.uri(source)
        if files is not None:
            return self.shards_of(self._told(self._named(base, files)))
        listed, below = self._under(base)
        names = list(listed)
        if not names and not below:
            return self._object(base)
        wanted = pattern or DEFAULT_PATTERN
        matches = select(names, wanted)
        if not matches:
            raise SourceNotFound(
                f"{base}: no object matches {wanted!r}; there is: {some_of([*names, *below])}; "
                "check the prefix and the pattern"
            )
        return self.shards_of([(base.under(name), listed[name]) for name in matches])

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """See `Storage.list_all`."""
        base = self._store.uri(source)
        pages = self._pages(base, deep=True)
        objects = (each for page in pages for each in page.objects)
        listed = sorted(objects, key=lambda each: natural_key(each.key))
        if not listed:
            return tuple(s for s in self._object(base) if take is None or take(s.uri))
        found = ((base.named(each.key), each) for each in listed)
        return self.shards_of([each for each in found if take is None or take(str(each[0]))])

    def look_at(self, uris: Sequence[str]) -> tuple[StoredShard, ...]:
        """Look at each of these objects, side by side."""
        return self._looks([self._store.uri(uri) for uri in uris])

    def _under(self, base: ObjectUri) -> tuple[dict[str, ListedObject], list[str]]:
        """Objects directly under a prefix by their names, and names of prefixes under it."""
        skip = len(base.prefix)
        try:
            pages = list(self._pages(base, deep=False))
        except SourceForbidden:
            # Credentials may allow reading one object and no listing, so the object is asked for.
            if self._is_object(base):
                return {}, []
            raise
        listed = {each.key[skip:]: each for page in pages for each in page.objects}
        below = [prefix[skip:] for page in pages for prefix in page.prefixes]
        return listed, below

    def _pages(self, base: ObjectUri, *, deep: bool) -> Iterator[Page]:
        """The pages of a listing that somebody holds as a whole.

        Raises:
            SourceError: there are more than `MAX_LISTING_PAGES`.
        """
        for number, page in enumerate(self._store.pages(base, deep=deep)):
            if number == MAX_LISTING_PAGES:
                raise SourceError(
                    f"{base}: its listing goes on after {MAX_LISTING_PAGES} pages; name a prefix "
                    "that holds fewer objects, or the files"
                )
            yield page

    def _told(self, uris: Sequence[ObjectUri]) -> list[Wanted]:
        """What a listing tells of objects that a caller names, where it saves requests.

        So many as are looked at side by side take one delay, as a listing does. A listing that
        fails, or is much longer than what is named, leaves the objects to be looked at.
        """
        folders = {(uri.bucket, uri.key.rpartition("/")[0]) for uri in uris}
        told: dict[str, ListedObject] = {}
        if len(uris) > LOOKS_AT_ONCE and len(folders) == 1:
            ((_, folder),) = folders
            pages = self._store.pages(uris[0].named(folder), deep=False)
            most = 1 + len(uris) // LOOKS_AT_ONCE
            with contextlib.suppress(SourceError):
                told = {o.key: o for page in itertools.islice(pages, most) for o in page.objects}
        return [(uri, told.get(uri.key, ListedObject(uri.key))) for uri in uris]

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
            return self._looks([uri])
        except SourceNotFound as error:
            told_by = str(error).removeprefix(f"{uri}: does not exist: ")
            raise SourceNotFound(
                f"{uri}: neither an object nor a prefix with objects under it: {told_by}"
            ) from error

    def shards_of(self, wanted: Sequence[Wanted]) -> tuple[StoredShard, ...]:
        """The objects as shards, taken as listed where one of them shows that this is right."""
        told = {str(uri): _stored(uri, listed) for uri, listed in wanted if listed.identity}
        if not told:
            return self._looks([uri for uri, _ in wanted])
        sample = max(told.values(), key=lambda shard: shard.size_bytes)
        place = place_of(sample.identity, sample.uri)
        believed = not DOUBTED_LISTINGS.get(place)
        found = self._found(
            uri
            for uri, _ in wanted
            if not believed or str(uri) not in told or str(uri) == sample.uri
        )
        if believed and not _same(sample, found[sample.uri]):
            DOUBTED_LISTINGS.learn(place, value=True)
            found |= self._found(uri for uri, _ in wanted if str(uri) not in found)
        elif len(told) > 1 and not believed and all(_same(told[uri], found[uri]) for uri in told):
            DOUBTED_LISTINGS.forget(place)
        return tuple(found.get(str(uri)) or told[str(uri)] for uri, _ in wanted)

    def _found(self, uris: Iterable[ObjectUri]) -> dict[str, StoredShard]:
        return {shard.uri: shard for shard in self._looks(list(uris))}

    def _looks(self, uris: Sequence[ObjectUri]) -> tuple[StoredShard, ...]:
        if len(uris) < 2:
            return tuple(map(self._store.look, uris))
        with ThreadPoolExecutor(min(LOOKS_AT_ONCE, len(uris)), "object-look") as threads:
            return tuple(threads.map(self._store.look, uris))

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


def _stored(uri: ObjectUri, listed: ListedObject) -> StoredShard:
    return StoredShard(str(uri), listed.size_bytes, listed.identity, looked_at=False)


def _same(listed: StoredShard, found: StoredShard) -> bool:
    return (listed.size_bytes, listed.identity) == (found.size_bytes, found.identity)


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

        At least one was looked at with the storage's credentials; `looked_at` tells which.

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

    def look_at(self, uris: Sequence[str]) -> tuple[StoredShard, ...]:
        """Look at each of these objects with the storage's credentials.

        Raises:
            SourceNotFound: one of them does not exist.
            SourceForbidden: the credentials do not allow reading one of them.
        """
        return Prefixes(self).look_at(uris)

    def shards_of(self, wanted: Sequence[Wanted]) -> tuple[StoredShard, ...]:
        """The objects as shards, taken as listed where one of them shows that this is right.

        Raises:
            SourceNotFound: one that is looked at does not exist.
            SourceForbidden: the credentials do not allow reading one that is looked at.
        """
        return Prefixes(self).shards_of(wanted)
