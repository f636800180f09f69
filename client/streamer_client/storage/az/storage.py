"""Azure Blob Storage as a kind of source: looking at, listing and opening blobs.

`prefixes.py` finds the shards, `http/reader.py` reads them. Runs in the daemon's workers and,
without a daemon, in the client. It reads only the environment that the client sent with the open,
never the variables of its own process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from streamer_client.storage.az.dialect import AzDialect
from streamer_client.storage.az.listing import KIND, parse_page
from streamer_client.storage.az.settings import az_settings
from streamer_client.storage.az.uri import az_uri, blob_url, listing_url
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine, Waits
from streamer_client.storage.http.listed_reader import opened
from streamer_client.storage.http.pool import pool_for
from streamer_client.storage.http.reader import ObjectReader, stored_shard
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.prefixes import Page, PrefixStorage

PAGE_KEYS: Final = 5000


class AzStorage(PrefixStorage):
    """Blobs of one account, read with the credentials of one client.

    Args:
        environment: the environment that the client sent; see `settings.py`.
        waits: clock and sleep, for tests.
        page_keys: how many blobs one page of a listing holds at most; Azure's own bound is 5000.

    Raises:
        ConfigError: a variable of `environment` is malformed.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        waits: Waits | None = None,
        page_keys: int = PAGE_KEYS,
    ) -> None:
        settings = az_settings(environment)
        self._endpoint = settings.endpoint
        self._page_keys = page_keys
        self._engine = HttpEngine(
            pool_for(settings.http), AzDialect(settings), settings.policy, waits
        )

    def open(self, shard: StoredShard) -> ObjectReader:
        """Open a blob for reading; a HEAD is sent only where its ETag is not strong.

        Raises:
            SourceChanged: the blob is no longer the one of `shard.identity`, or has vanished.
            SourceForbidden: the credentials do not allow reading it.
        """
        request = self._head(az_uri(shard.uri))
        return opened(self._engine, request, shard, KIND, self._endpoint)

    def uri(self, text: str) -> ObjectUri:
        """See `ObjectStore`."""
        return az_uri(text)

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        """See `ObjectStore`."""
        query = {
            "restype": "container",
            "comp": "list",
            "include": "metadata",
            "maxresults": str(self._page_keys),
        }
        if uri.prefix:
            query["prefix"] = uri.prefix
        if not deep:
            query["delimiter"] = "/"
        while True:
            url = listing_url(self._endpoint, uri, query)
            body = self._engine.ask_listing(Request("GET", url, str(uri)))
            found = parse_page(uri, self._endpoint, body)
            yield found.page
            if not found.marker:
                return
            query["marker"] = found.marker

    def look(self, uri: ObjectUri) -> StoredShard:
        """See `ObjectStore`."""
        return stored_shard(self._engine, self._head(uri), KIND, self._endpoint)

    def _head(self, uri: ObjectUri) -> Request:
        return Request("HEAD", blob_url(self._endpoint, uri), str(uri))
