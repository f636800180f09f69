"""S3 as a kind of source: looking at, listing and opening objects.

`prefixes.py` finds the shards, `http/reader.py` reads them. Runs in the daemon's workers and,
without a daemon, in the client. It reads only the environment that the client sent with the open,
never the variables of its own process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from streamer_client.storage.contract import StoredShard
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine, Waits
from streamer_client.storage.http.listed_reader import opened
from streamer_client.storage.http.pool import pool_for
from streamer_client.storage.http.reader import ObjectReader, stored_shard
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.prefixes import Page, PrefixStorage
from streamer_client.storage.s3.dialect import S3Dialect
from streamer_client.storage.s3.listing import KIND, list_keys
from streamer_client.storage.s3.settings import s3_settings
from streamer_client.storage.s3.uri import request_url, s3_uri


class S3Storage(PrefixStorage):
    """Objects of one store, read with the credentials of one client.

    Args:
        environment: the environment that the client sent; see `settings.py`.
        waits: clock and sleep, for tests.

    Raises:
        ConfigError: a variable of `environment` is malformed.
    """

    def __init__(self, environment: Mapping[str, str], waits: Waits | None = None) -> None:
        settings = s3_settings(environment)
        self._dialect = S3Dialect(settings)
        self._engine = HttpEngine(pool_for(settings.http), self._dialect, settings.policy, waits)

    def open(self, shard: StoredShard) -> ObjectReader:
        """Open an object for reading; a HEAD is sent only where its ETag is not strong.

        Raises:
            SourceChanged: the object is no longer that of `shard.identity`, or has vanished.
            SourceForbidden: the credentials do not allow reading it.
        """
        request = _head(s3_uri(shard.uri))
        return opened(self._engine, request, shard, KIND, self._dialect.endpoint)

    def uri(self, text: str) -> ObjectUri:
        """See `ObjectStore`."""
        return s3_uri(text)

    def pages(self, uri: ObjectUri, *, deep: bool) -> Iterator[Page]:
        """See `ObjectStore`."""
        return list_keys(self._engine, uri, self._dialect.endpoint, deep=deep)

    def look(self, uri: ObjectUri) -> StoredShard:
        """See `ObjectStore`."""
        return stored_shard(self._engine, _head(uri), KIND, self._dialect.endpoint)


def _head(uri: ObjectUri) -> Request:
    return Request("HEAD", request_url(uri), str(uri))
