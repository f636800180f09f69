"""Google Cloud Storage as a kind of source: looking at, listing and opening objects.

`prefixes.py` finds the shards, `http/reader.py` reads them. Runs in the daemon's workers and,
without a daemon, in the client. It reads only the environment that the client sent with the open,
never the variables of its own process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from streamer_client.contract.errors import SourceError
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.gs.dialect import GsDialect
from streamer_client.storage.gs.metadata import (
    LISTING_FIELDS,
    METADATA_FIELDS,
    Item,
    ObjectMetadata,
    listing,
    object_metadata,
)
from streamer_client.storage.gs.settings import gs_settings
from streamer_client.storage.gs.uri import gs_uri, listing_url, object_url
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine, Waits
from streamer_client.storage.http.headers import leaves_bytes_alone
from streamer_client.storage.http.pool import pool_for
from streamer_client.storage.http.proof import ObjectProof
from streamer_client.storage.http.reader import ObjectReader, changed
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.prefixes import ListedObject, Page, PrefixStorage

KIND: Final = "gs"

PAGE_KEYS: Final = 1000


class GsStorage(PrefixStorage):
    """Objects of one store, read with the credentials of one client.

    Args:
        environment: the environment that the client sent; see `settings.py`.
        waits: clock and sleep, for tests.

    Raises:
        ConfigError: a variable of `environment` is malformed.
    """

    def __init__(self, environment: Mapping[str, str], waits: Waits | None = None) -> None:
        settings = gs_settings(environment)
        self._endpoint = settings.endpoint
        self._engine = HttpEngine(
            pool_for(settings.http), GsDialect(settings), settings.policy, waits
        )

    def open(self, shard: StoredShard) -> ObjectReader:
        """Open an object for reading, without a request: each read names the generation.

        Raises:
            SourceChanged: `shard.identity` is not one of this store's.
            SourceError: the object is stored compressed, so its ranges are not those of the file.
        """
        generation = self._generation(shard)
        query = {"alt": "media", "ifGenerationMatch": generation}
        request = Request("GET", object_url(self._endpoint, gs_uri(shard.uri), query), shard.uri)
        proof = ObjectProof(shard.size_bytes, version=generation)
        return ObjectReader(self._engine, shard, request, proof)

    def uri(self, text: str) -> ObjectUri:
        """See `ObjectStore`."""
        return gs_uri(text)

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        """See `ObjectStore`."""
        query = {"maxResults": str(PAGE_KEYS), "fields": LISTING_FIELDS, "prefix": uri.prefix}
        if not deep:
            query["delimiter"] = "/"
        while True:
            url = listing_url(self._endpoint, uri, query)
            page = listing(str(uri), self._engine.ask_listing(Request("GET", url, str(uri))))
            items = (item for item in page.items if not item.name.endswith("/"))
            yield Page(tuple(map(self._listed, items)), tuple(page.prefixes))
            if not page.next_page_token:
                return
            query["pageToken"] = page.next_page_token

    def look(self, uri: ObjectUri) -> StoredShard:
        """See `ObjectStore`."""
        found = self._metadata(uri)
        return StoredShard(str(uri), found.size_bytes, self._identity(found))

    def _metadata(self, uri: ObjectUri) -> ObjectMetadata:
        url = object_url(self._endpoint, uri, {"fields": METADATA_FIELDS})
        return object_metadata(str(uri), self._engine.ask(Request("GET", url, str(uri))).body)

    def _listed(self, item: Item) -> ListedObject:
        found = item.metadata
        if found is None:
            return ListedObject(item.name)
        return ListedObject(item.name, found.size_bytes, self._identity(found))

    def _identity(self, found: ObjectMetadata) -> str:
        """The text that identifies a content: its generation, and its encoding if it has one."""
        plain = leaves_bytes_alone(found.content_encoding)
        encoding = "" if plain else f" {found.content_encoding}"
        return f"{KIND}:{self._endpoint} {found.size_bytes} {found.generation}{encoding}"

    def _generation(self, shard: StoredShard) -> str:
        """The generation that an identity names.

        Raises:
            SourceChanged: the identity was made for another endpoint or by another program.
            SourceError: the object is stored compressed.
        """
        start = f"{KIND}:{self._endpoint} {shard.size_bytes} "
        generation, _, encoding = shard.identity.removeprefix(start).partition(" ")
        if encoding:
            raise SourceError(
                f"{shard.uri}: is stored compressed (Content-Encoding {encoding}), so it cannot be "
                "read in blocks; upload it uncompressed"
            )
        if shard.identity.startswith(start) and generation.isascii() and generation.isdigit():
            return generation
        raise changed(shard, f"expected {shard.identity}, which names no generation of it")
