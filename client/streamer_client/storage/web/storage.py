"""Web servers as a kind of source: files by their URLs, or a checkpoint with an index.

Runs in the daemon's fetch workers and, without a daemon, in the client. The URIs of its shards hold
no secrets: those come with the caller's variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import quote, urlsplit

from streamer_client.contract.errors import (
    ConfigError,
    SourceError,
    SourceNotFound,
)
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.http.engine import HttpEngine, Waits
from streamer_client.storage.http.messages import Request
from streamer_client.storage.http.origin import origin_of
from streamer_client.storage.http.pool import pool_for
from streamer_client.storage.http.probe import Found, probe, unchanged
from streamer_client.storage.http.reader import ObjectReader
from streamer_client.storage.http.retry import retry_policy
from streamer_client.storage.http.settings import http_settings
from streamer_client.storage.http.shown import without_secrets
from streamer_client.storage.names import DEFAULT_PATTERN, natural_key, select, told
from streamer_client.storage.web.dialect import WebDialect
from streamer_client.storage.web.names import BESIDE, INDEX, SINGLE, files_of_index, is_glob
from streamer_client.storage.web.secrets import secrets_of

KIND: Final = "http"

HEADS_AT_ONCE: Final = 8


class WebStorage:
    """Files of web servers, as one caller may read them.

    Args:
        environment: the caller's variables; see `secrets.py` and `http/settings.py`.
        waits: clock and sleep, for tests.

    Raises:
        ConfigError: a variable is malformed.
    """

    def __init__(self, environment: Mapping[str, str], waits: Waits | None = None) -> None:
        self._environment = environment
        self._dialect = WebDialect(secrets_of("", environment))
        self._engine = HttpEngine(
            pool_for(http_settings(environment)), self._dialect, retry_policy(environment), waits
        )

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        """The file that `source` is, the `files` named, or what the index under `source` names.

        Raises:
            SourceNotFound: no such file; under a directory, no index and no single file either.
            SourceForbidden: the server wants other credentials.
            SourceError: the server gives no size, or nothing that proves the content.
            ConfigError: `files` is empty or names a file twice, or the URL is malformed.
        """
        base = self._public(source, files)
        if files is not None:
            return self._shards(self._named(base, files))
        if not base.endswith("/") and (pattern is None or base.endswith(".safetensors")):
            alone = self._file(base)
            if alone is not None:
                return (alone,)
        if pattern is not None and not is_glob(pattern):
            return (self._shard(_under(base, pattern)),)
        return self._shards(self._matches(base, pattern or DEFAULT_PATTERN))

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """The weights, and of what usually lies beside them whatever is there.

        Raises:
            SourceNotFound: none of it.
        """
        base = self._public(source)
        if not base.endswith("/"):
            alone = self._file(base)
            if alone is not None:
                return (alone,) if take is None or take(alone.uri) else ()
        weights = self._weights(base)
        names = [*BESIDE, *([INDEX] if weights and weights != [SINGLE] else []), *weights]
        found = self._existing(_under(base, name) for name in names)
        if not found:
            raise SourceNotFound(_unlistable(base, "nothing of a checkpoint was found"))
        taken = (shard for shard in found if take is None or take(shard.uri))
        return tuple(sorted(taken, key=lambda shard: natural_key(shard.uri)))

    def open(self, shard: StoredShard) -> ObjectReader:
        """Open a file for reading; one HEAD tells that it is still the same.

        Raises:
            SourceChanged: it is no longer what `shard.identity` says, or it vanished.
            SourceForbidden: the server wants other credentials.
        """
        request = _head(shard.uri)
        proof = unchanged(self._engine, request, shard, KIND, str(origin_of(shard.uri)))
        return ObjectReader(self._engine, shard, request, proof)

    def _public(self, source: str, files: Sequence[str] | None = None) -> str:
        """The URL without its secrets, which are used from here on."""
        origin_of(source)
        given = {
            secrets_of(url, self._environment)
            for url in (source, *(files or ()))
            if "://" in url and without_secrets(url) != url
        }
        if len(given) > 1:
            raise ConfigError(
                f"{without_secrets(source)}: the URLs hold different passwords or signatures; "
                "load them from a place where one is good for all"
            )
        self._dialect.secrets = next(iter(given), secrets_of("", self._environment))
        return without_secrets(source)

    def _named(self, base: str, files: Sequence[str]) -> list[str]:
        if not files:
            raise ConfigError(
                f"{base}: the list of files is empty; name at least one, or leave it out"
            )
        urls = [without_secrets(name) if "://" in name else _under(base, name) for name in files]
        twice = sorted({url for url in urls if urls.count(url) > 1})
        if twice:
            raise ConfigError(
                f"{base}: the list of files names twice: {told(twice)}; name each once"
            )
        return urls

    def _matches(self, base: str, pattern: str) -> list[str]:
        names = self._weights(base)
        matches = select(names, pattern)
        if not matches:
            why = f"no file that its index names matches {pattern!r}"
            raise SourceNotFound(
                f"{_unlistable(base, why)}; there is: {told(names)}"
                if names
                else _unlistable(base, f"there is neither {INDEX} nor {SINGLE}")
            )
        return [_under(base, name) for name in matches]

    def _weights(self, base: str) -> list[str]:
        """Names of the weights under a directory; empty where neither index nor file is."""
        about = _under(base, INDEX)
        try:
            return files_of_index(about, self._engine.ask(Request("GET", about, about)).body)
        except SourceNotFound:
            return [SINGLE] if self._existing([_under(base, SINGLE)]) else []

    def _file(self, url: str) -> StoredShard | None:
        """The file that a URL without a slash at its end leads to; None: a page, or nothing."""
        named = urlsplit(url).path.endswith(".safetensors")
        try:
            found = probe(self._engine, _head(url))
        except SourceError:
            # A directory may say 403 or 404, or send a page whose length it does not tell. Its
            # index is asked for next, and fails in the same way if the trouble is another.
            if named:
                raise
            return None
        if not named and found.media_type.startswith("text/html"):
            return None
        return self._stored(url, found)

    def _existing(self, urls: Iterable[str]) -> list[StoredShard]:
        def look(url: str) -> StoredShard | None:
            try:
                return self._shard(url)
            except SourceNotFound:
                return None

        with ThreadPoolExecutor(HEADS_AT_ONCE, "web-head") as threads:
            return [shard for shard in threads.map(look, urls) if shard]

    def _shards(self, urls: Sequence[str]) -> tuple[StoredShard, ...]:
        if len(urls) == 1:
            return (self._shard(urls[0]),)
        with ThreadPoolExecutor(min(HEADS_AT_ONCE, len(urls)), "web-head") as threads:
            return tuple(threads.map(self._shard, urls))

    def _shard(self, url: str) -> StoredShard:
        return self._stored(url, probe(self._engine, _head(url)))

    def _stored(self, url: str, found: Found) -> StoredShard:
        proof = found.proof
        if not proof.proves:
            raise SourceError(
                f"{url}: the server gives neither ETag nor Last-Modified, so that a change during "
                "the load could not be noticed; serve it with one of them"
            )
        identity = proof.identity(KIND, str(origin_of(url)))
        return StoredShard(url, proof.size_bytes, identity, validated=proof.lasting)


def _head(url: str) -> Request:
    return Request("HEAD", url, url)


def _under(base: str, name: str) -> str:
    path, question, query = base.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{question}{query}"


def _unlistable(base: str, why: str) -> str:
    return (
        f"{base}: a directory of a web server cannot be listed, and {why}; name the files, or "
        f"serve {INDEX} beside them"
    )
