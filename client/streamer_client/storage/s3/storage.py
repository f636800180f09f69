"""S3 as a kind of source: finding, naming and opening objects; `http/reader.py` reads them.

Runs in the daemon's fetch workers and, without a daemon, in the client. What it knows of the caller
are the variables that came with the open, never this process's own environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from streamer_client.contract.errors import ConfigError, SourceForbidden, SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.http.engine import HttpEngine, Waits
from streamer_client.storage.http.messages import Request
from streamer_client.storage.http.pool import pool_for
from streamer_client.storage.http.probe import stored_shard, unchanged
from streamer_client.storage.http.reader import ObjectReader
from streamer_client.storage.names import DEFAULT_PATTERN, natural_key, select, told
from streamer_client.storage.s3.dialect import S3Dialect
from streamer_client.storage.s3.listing import list_keys
from streamer_client.storage.s3.settings import s3_settings
from streamer_client.storage.s3.uri import S3Uri, s3_uri

KIND: Final = "s3"

HEADS_AT_ONCE: Final = 16


class S3Storage:
    """Objects of one store, as one caller may read them.

    Args:
        environment: the caller's variables; see `settings.py`.
        waits: clock and sleep, for tests.

    Raises:
        ConfigError: one of them is malformed.
    """

    def __init__(self, environment: Mapping[str, str], waits: Waits | None = None) -> None:
        settings = s3_settings(environment)
        self._dialect = S3Dialect(settings)
        self._engine = HttpEngine(pool_for(settings.http), self._dialect, settings.policy, waits)

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        """The shards under a prefix, in natural order of their names, or `files` in their own.

        Each was looked at (HEAD) with the caller's credentials.

        Raises:
            SourceNotFound: no such bucket or object, or nothing that the pattern takes.
            SourceForbidden: the caller may not list or read.
            CredentialsExpired: not any more.
            ConfigError: the source is malformed, or `files` is empty or names an object twice.
        """
        base = s3_uri(source)
        if files is not None:
            return self._shards(_named(base, source, files))
        names, below = self._names(base)
        if not names and not below:
            return self._object(base)
        wanted = pattern or DEFAULT_PATTERN
        matches = select(names, wanted)
        if not matches:
            raise SourceNotFound(
                f"{base}: no object matches {wanted!r}; there is: {told([*names, *below])}; "
                "check the prefix and the pattern"
            )
        return self._shards(base.under(name) for name in matches)

    def list_all(self, source: str) -> tuple[StoredShard, ...]:
        """Every object under a prefix, at any depth, or the object that `source` is.

        Raises:
            SourceNotFound: nothing there.
            SourceForbidden: the caller may not list or read.
        """
        base = s3_uri(source)
        keys = [key for page in list_keys(self._engine, base, deep=True) for key in page.keys]
        if not keys:
            return self._object(base)
        return self._shards(S3Uri(base.bucket, key) for key in sorted(keys, key=natural_key))

    def open(self, shard: StoredShard) -> ObjectReader:
        """Open an object for reading; one HEAD tells that it is still the same.

        Raises:
            SourceChanged: it is no longer what `shard.identity` says, or it vanished.
            SourceForbidden: the caller may not read it.
        """
        request = _head(s3_uri(shard.uri))
        proof = unchanged(self._engine, request, shard, KIND, self._dialect.endpoint)
        return ObjectReader(self._engine, shard, request, proof)

    def _names(self, base: S3Uri) -> tuple[list[str], list[str]]:
        """Names of objects directly under a prefix, and of prefixes under it."""
        skip = len(base.prefix)
        try:
            pages = list(list_keys(self._engine, base, deep=False))
        except SourceForbidden:
            # Who may read an object may not always list; the object alone can be asked for.
            if self._is_object(base):
                return [], []
            raise
        names = [key[skip:] for page in pages for key in page.keys]
        below = [prefix[skip:] for page in pages for prefix in page.prefixes]
        return names, below

    def _is_object(self, uri: S3Uri) -> bool:
        try:
            return bool(self._object(uri))
        except (SourceForbidden, SourceNotFound):
            return False

    def _object(self, uri: S3Uri) -> tuple[StoredShard, ...]:
        """What is no prefix, as the one object that it may be."""
        if not uri.key or uri.key.endswith("/"):
            raise SourceNotFound(
                f"{uri}: nothing lies under it; check bucket and prefix for typing errors"
            )
        return self._shards([uri])

    def _shards(self, uris: Iterable[S3Uri]) -> tuple[StoredShard, ...]:
        wanted = list(uris)
        if len(wanted) == 1:
            return (self._shard(wanted[0]),)
        with ThreadPoolExecutor(min(HEADS_AT_ONCE, len(wanted)), "s3-head") as threads:
            return tuple(threads.map(self._shard, wanted))

    def _shard(self, uri: S3Uri) -> StoredShard:
        return stored_shard(self._engine, _head(uri), KIND, self._dialect.endpoint)


def _head(uri: S3Uri) -> Request:
    return Request("HEAD", uri.request_url(), str(uri))


def _named(base: S3Uri, source: str, files: Sequence[str]) -> list[S3Uri]:
    if not files:
        raise ConfigError(
            f"{source}: the list of files is empty; name at least one, or leave it out"
        )
    uris = [s3_uri(name) if "://" in name else base.under(name) for name in files]
    twice = sorted({str(uri) for uri in uris if uris.count(uri) > 1})
    if twice:
        raise ConfigError(f"{source}: the list of files names twice: {told(twice)}; name each once")
    return uris
