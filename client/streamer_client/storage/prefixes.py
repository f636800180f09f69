"""Finds the shards of a source whose objects have keys, with prefixes in place of directories.

Owns which objects a source means, and which of them are looked at; an `ObjectStore` lists them.
Runs in workers and, without a daemon, in the client.

If a listing proves contents, one object is looked at, and the others are taken as listed. If it
differs, each object is looked at; where a listing was right before, none is. Some stores list only
those objects wrongly that were uploaded in parts, so these are judged apart.
"""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from streamer_client.storage.remembered import LISTINGS, place_of

LOOKS_AT_ONCE: Final = 16
"""How many objects are looked at side by side, as each request takes one delay of the network."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One entry of a listing."""

    key: str
    size_bytes: int = 0
    identity: str = ""
    """The identity that a HEAD would give; empty if the listing does not prove the content."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing."""

    objects: tuple[ListedObject, ...]
    """The objects, without those that only stand for a directory."""
    prefixes: tuple[str, ...] = ()
    """Prefixes one level deeper, each once, with its slash; empty for a recursive listing."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the objects."""
        return tuple(listed.key for listed in self.objects)


Wanted = tuple[ObjectUri, ListedObject]
"""A wanted object, and its entry in a listing."""


class ObjectStore(Protocol):
    """The operations that one kind of store adds. Thread-safe."""

    def uri(self, text: str) -> ObjectUri:
        """Parse a source or shard.

        Raises:
            ConfigError: the text is malformed.
        """
        ...

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        """List the objects under a prefix: all of them, or only those directly under it.

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
    """The sources of one store, as far as its credentials allow."""

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
        """The pages of a listing that the caller holds in memory as a whole.

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
        """The listing's entries for named objects, if a listing saves requests.

        Looking at `LOOKS_AT_ONCE` objects side by side takes one delay, as a listing does. If a
        listing fails, or has far more objects than are named, the objects are looked at.
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
        """The one object that a URI means if nothing lies under it."""
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
        """The objects as shards: as listed where the listing is believed, else as looked at."""
        told = {str(uri): _stored(uri, listed) for uri, listed in wanted if listed.identity}
        places: dict[str, list[StoredShard]] = {}
        for shard in told.values():
            places.setdefault(place_of(shard.identity, shard.uri), []).append(shard)
        unsure = {uri for place, shards in places.items() for uri in _unsure(place, shards)}
        found = self._found(uri for uri, _ in wanted if str(uri) not in told or str(uri) in unsure)
        wrong = {
            shard.uri
            for place, shards in places.items()
            if _is_wrong(place, shards, found)
            for shard in shards
        }
        found |= self._found(
            uri for uri, _ in wanted if str(uri) in wrong and str(uri) not in found
        )
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


def _unsure(place: str, listed: Sequence[StoredShard]) -> list[str]:
    """The URIs of a place's objects that are looked at first."""
    is_right = LISTINGS.get(place)
    if is_right is None:
        return [max(listed, key=lambda shard: shard.size_bytes).uri]
    return [] if is_right else [shard.uri for shard in listed]


def _is_wrong(place: str, listed: Sequence[StoredShard], found: Mapping[str, StoredShard]) -> bool:
    """Whether the listing contradicts an object of a place that was looked at; learns from it."""
    looked = [shard for shard in listed if shard.uri in found]
    if not looked:
        return False
    is_right = all(_same(shard, found[shard.uri]) for shard in looked)
    if LISTINGS.get(place) is not False:
        LISTINGS.learn(place, value=is_right)
    elif is_right and len(listed) > 1:  # one object may agree by chance
        LISTINGS.forget(place)
    return not is_right


def _same(listed: StoredShard, found: StoredShard) -> bool:
    return (listed.size_bytes, listed.identity) == (found.size_bytes, found.identity)


class PrefixStorage(ABC):
    """The base of an object store's `Storage`; its subclass is also the `ObjectStore`."""

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

        `looked_at` tells which of them were looked at with the storage's credentials.

        Raises:
            BucketNotFound: no such bucket.
            SourceNotFound: there is no such object, or no object matches the pattern.
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
            SourceNotFound: nothing is there.
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
        """The objects as shards: as listed where the listing is believed, else as looked at.

        Raises:
            SourceNotFound: an object that is looked at does not exist.
            SourceForbidden: the credentials do not allow reading an object that is looked at.
        """
        return Prefixes(self).shards_of(wanted)
