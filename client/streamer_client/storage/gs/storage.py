"""Google Cloud Storage as a kind of source: looking at, listing and opening objects.

`prefixes.py` finds the shards, `http/reader.py` reads them. Runs in the daemon's fetch workers and,
without a daemon, in the client. It reads the environment that the client sent with the open, never
the variables of its own process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from streamer_client.contract.errors import SourceError, SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.gs.dialect import GsDialect
from streamer_client.storage.gs.metadata import (
    LISTING_FIELDS,
    METADATA_FIELDS,
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
from streamer_client.storage.http.reader import ObjectReader, changed, vanished
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.prefixes import Page, PrefixStorage

KIND: Final = "gs"

PAGE_KEYS: Final = 1000


class GsStorage(PrefixStorage):
    """Objects of one store, read with the credentials of one client.

    Args:
        environment: what the client sent; see `settings.py`.
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
        """Open an object for reading; its metadata tells that it is still the same.

        Raises:
            SourceChanged: it is no longer what `shard.identity` says, or it vanished.
            SourceForbidden: the credentials do not allow reading it.
            SourceError: it is stored compressed, so that its ranges are not those of the file.
        """
        uri = gs_uri(shard.uri)
        try:
            found = self._metadata(uri)
        except SourceNotFound as error:
            raise vanished(shard, error) from error
        identity = self._identity(found)
        if identity != shard.identity:
            raise changed(shard, f"expected {shard.identity}, found {identity}")
        if not leaves_bytes_alone(found.content_encoding):
            raise SourceError(
                f"{shard.uri}: is stored compressed (Content-Encoding {found.content_encoding}), "
                "so it cannot be read in blocks; upload it uncompressed"
            )
        query = {"alt": "media", "ifGenerationMatch": found.generation}
        request = Request("GET", object_url(self._endpoint, uri, query), shard.uri)
        return ObjectReader(
            self._engine, shard, request, ObjectProof(found.size_bytes, version=found.generation)
        )

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
            keys = tuple(item.name for item in page.items if not item.name.endswith("/"))
            yield Page(keys, tuple(page.prefixes))
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

    def _identity(self, found: ObjectMetadata) -> str:
        return f"{KIND}:{self._endpoint} {found.size_bytes} {found.generation}"
