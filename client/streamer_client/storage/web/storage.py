"""Web servers as a kind of source: files by their URLs, or a checkpoint with an index.

Runs in the daemon's workers and, without a daemon, in the client. The URIs of its shards hold no
secrets. Secrets come with the environment or in the URLs that a caller lists, and each request
carries the secrets of its own URL.
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
from streamer_client.storage.environment import http_settings, retry_policy
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine, Waits
from streamer_client.storage.http.listed_reader import opened
from streamer_client.storage.http.pool import pool_for
from streamer_client.storage.http.reader import Found, ObjectReader, look_at
from streamer_client.storage.http.urls import origin_of, without_secrets
from streamer_client.storage.names import DEFAULT_PATTERN, natural_key, select, some_of
from streamer_client.storage.remembered import Remembered
from streamer_client.storage.web.dialect import WebDialect
from streamer_client.storage.web.names import BESIDE, INDEX, SINGLE, files_of_index, is_glob
from streamer_client.storage.web.secrets import UrlSecrets, secrets_of

KIND: Final = "http"

HEADS_AT_ONCE: Final = 8

MAX_URLS: Final = 4096
"""For how many URLs one storage remembers secrets between listing and opening."""


class WebStorage:
    """Files of web servers, read with the secrets of one client. Thread-safe.

    Args:
        environment: the environment that the client sent; see `secrets.py`.
        waits: clock and sleep, for tests.

    Raises:
        ConfigError: a variable is malformed.
    """

    def __init__(self, environment: Mapping[str, str], waits: Waits | None = None) -> None:
        self._environment = environment
        self._secrets: Remembered[str, UrlSecrets] = Remembered(MAX_URLS)
        """The secrets of each listed URL; the keys are the URLs without secrets."""
        self._engine = HttpEngine(
            pool_for(http_settings(environment)), WebDialect(), retry_policy(environment), waits
        )

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        """The file `source` itself, the named `files`, or the files of the index under `source`.

        Raises:
            SourceNotFound: there is no such file; under a directory, neither an index nor a single
                file.
            SourceForbidden: the server wants other credentials.
            SourceError: the server gives no size, or nothing that proves the content.
            ConfigError: `files` is empty or names a file twice, or the URL is malformed.
        """
        base, secrets = without_secrets(source), self._secrets_in(source, files)
        if files is not None:
            return self._shards(self._named(base, files), secrets)
        if not base.endswith("/") and (pattern is None or base.endswith(".safetensors")):
            alone = self._file(base, secrets)
            if alone is not None:
                return (alone,)
        if pattern is not None and not is_glob(pattern):
            return (self._shard(_under(base, pattern), secrets),)
        return self._shards(self._matches(base, pattern or DEFAULT_PATTERN, secrets), secrets)

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """The weights, and those of the usual files beside them that exist.

        Raises:
            SourceNotFound: none of these files exists.
        """
        base, secrets = without_secrets(source), self._secrets_in(source)
        if not base.endswith("/"):
            alone = self._file(base, secrets)
            if alone is not None:
                return (alone,) if take is None or take(alone.uri) else ()
        weights = self._weights(base, secrets)
        names = [*BESIDE, *([INDEX] if weights and weights != [SINGLE] else []), *weights]
        found = self._existing((_under(base, name) for name in names), secrets)
        if not found:
            raise SourceNotFound(_unlistable(base, "nothing of a checkpoint was found"))
        taken = (shard for shard in found if take is None or take(shard.uri))
        return tuple(sorted(taken, key=lambda shard: natural_key(shard.uri)))

    def open(self, shard: StoredShard) -> ObjectReader:
        """Open a file for reading; a HEAD is sent only where its ETag is not strong.

        Raises:
            SourceChanged: the file is no longer that of `shard.identity`, or has vanished.
            SourceForbidden: the server wants other credentials.
        """
        default = secrets_of("", self._environment)
        request = _request("HEAD", shard.uri, self._secrets.get(shard.uri) or default)
        return opened(self._engine, request, shard, KIND, str(origin_of(shard.uri)))

    def _secrets_in(self, source: str, files: Sequence[str] | None = None) -> UrlSecrets:
        """The secrets in the URLs of one listing, or else those of the environment."""
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
        return next(iter(given), secrets_of("", self._environment))

    def _named(self, base: str, files: Sequence[str]) -> list[str]:
        if not files:
            raise ConfigError(
                f"{base}: the list of files is empty; name at least one, or leave it out"
            )
        urls = [without_secrets(name) if "://" in name else _under(base, name) for name in files]
        twice = sorted({url for url in urls if urls.count(url) > 1})
        if twice:
            raise ConfigError(
                f"{base}: the list of files names twice: {some_of(twice)}; name each once"
            )
        return urls

    def _matches(self, base: str, pattern: str, secrets: UrlSecrets) -> list[str]:
        names = self._weights(base, secrets)
        matches = select(names, pattern)
        if not matches:
            why = f"no file that its index names matches {pattern!r}"
            raise SourceNotFound(
                f"{_unlistable(base, why)}; there is: {some_of(names)}"
                if names
                else _unlistable(base, f"there is neither {INDEX} nor {SINGLE}")
            )
        return [_under(base, name) for name in matches]

    def _weights(self, base: str, secrets: UrlSecrets) -> list[str]:
        """Names of the weights in a directory; empty if it has neither index nor weights."""
        url = _under(base, INDEX)
        try:
            return files_of_index(url, self._engine.ask(_request("GET", url, secrets)).body)
        except SourceNotFound:
            return [SINGLE] if self._existing([_under(base, SINGLE)], secrets) else []

    def _file(self, url: str, secrets: UrlSecrets) -> StoredShard | None:
        """The file at a URL without a slash at its end; None for a page, or if nothing is there."""
        named = urlsplit(url).path.endswith(".safetensors")
        try:
            found = look_at(self._engine, _request("HEAD", url, secrets))
        except SourceError:
            # For a directory a server may answer 403 or 404, or a page without its length. The
            # directory's
            # index is asked for next; if the trouble has another cause, that request fails as well.
            if named:
                raise
            return None
        if not named and found.media_type.startswith("text/html"):
            return None
        return self._stored(url, found, secrets)

    def _existing(self, urls: Iterable[str], secrets: UrlSecrets) -> list[StoredShard]:
        def look(url: str) -> StoredShard | None:
            try:
                return self._shard(url, secrets)
            except SourceNotFound:
                return None

        with ThreadPoolExecutor(HEADS_AT_ONCE, "web-head") as threads:
            return [shard for shard in threads.map(look, urls) if shard]

    def _shards(self, urls: Sequence[str], secrets: UrlSecrets) -> tuple[StoredShard, ...]:
        if len(urls) == 1:
            return (self._shard(urls[0], secrets),)
        with ThreadPoolExecutor(min(HEADS_AT_ONCE, len(urls)), "web-head") as threads:
            return tuple(threads.map(lambda url: self._shard(url, secrets), urls))

    def _shard(self, url: str, secrets: UrlSecrets) -> StoredShard:
        found = look_at(self._engine, _request("HEAD", url, secrets))
        return self._stored(url, found, secrets)

    def _stored(self, url: str, found: Found, secrets: UrlSecrets) -> StoredShard:
        proof = found.proof
        if not proof.proves:
            raise SourceError(
                f"{url}: the server gives neither ETag nor Last-Modified, so that a change during "
                "the load could not be noticed; serve it with one of them"
            )
        self._secrets.learn(url, secrets)
        identity = proof.identity(KIND, str(origin_of(url)))
        return StoredShard(url, proof.size_bytes, identity, validated=proof.lasting)


def _request(method: str, url: str, secrets: UrlSecrets) -> Request:
    """A request that carries its secrets; errors show the URL without them."""
    return Request(method, secrets.signed(url), url, secrets.headers())


def _under(base: str, name: str) -> str:
    path, question, query = base.partition("?")
    return f"{path.rstrip('/')}/{quote(name)}{question}{query}"


def _unlistable(base: str, why: str) -> str:
    return (
        f"{base}: a directory of a web server cannot be listed, and {why}; name the files, or "
        f"serve {INDEX} beside them"
    )
