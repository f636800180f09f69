"""What lies under a directory or an object-store prefix, and which of it patterns take."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from streamer_client.contract.errors import SourceNotFound
from streamer_client.contract.printable import printable
from streamer_client.runai.credentials import S3Credentials, with_credentials
from streamer_client.runai.failures import as_value_error
from streamer_client.storage.contract import Storage, StoredShard
from streamer_client.storage.registry import source_environment, storage_for

log = logging.getLogger(__name__)

Choice = Callable[[str, str], bool]
"""Asked of a file's URI and its name from the source on."""


def list_safetensors(path: str, s3_credentials: S3Credentials | None = None) -> list[str]:
    """Paths or URIs of the safetensors files directly under `path`, part-2 before part-10.

    Empty where there are none, as Run:ai's; what was looked for is then logged.

    Args:
        path: a directory or an object-store prefix.
        s3_credentials: win over the environment.

    Raises:
        ValueError: it may not be listed, or the store does not answer; also a StreamerError.
    """
    source = os.fspath(path)
    with as_value_error():
        try:
            found = storage_of(source, s3_credentials).list_shards(source, None, None)
        except SourceNotFound as error:
            log.warning("event=no_safetensors source=%s reason=%r", printable(source), str(error))
            return []
    return [shard.uri for shard in found]


def list_files(
    source: str,
    credentials: S3Credentials | None,
    *,
    recursive: bool,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
) -> list[StoredShard]:
    """Files under a directory or prefix, in natural order.

    Args:
        source: the directory or prefix.
        credentials: win over the environment.
        recursive: at any depth, or directly under it only.
        allow: globs; keep what any of them takes. None keeps all.
        ignore: globs; drop what any of them takes.

    Raises:
        SourceNotFound: there is no such directory, bucket or prefix.
        SourceError: it cannot be listed.
    """

    def chosen(uri: str, relative: str) -> bool:
        return (recursive or "/" not in relative) and wanted(uri, relative, allow, ignore)

    found = found_under(storage_of(source, credentials), source, chosen)
    return [shard for shard, _ in found]


def found_under(storage: Storage, source: str, chosen: Choice) -> Iterator[tuple[StoredShard, str]]:
    """The chosen files under a source, each with its name from there.

    A source that is a file has its own name. What is not chosen is not looked at.
    """
    base = (_place(source) if "://" in source else os.path.abspath(source)).rstrip("/") + "/"

    def relative(uri: str) -> str:
        place = _place(uri)
        return place.removeprefix(base) if place.startswith(base) else place.rpartition("/")[2]

    def take(uri: str) -> bool:
        # What ends in a slash is a marker that some tools leave for a folder.
        return not uri.endswith("/") and chosen(uri, relative(uri))

    for shard in storage.list_all(source, take):
        yield shard, relative(shard.uri)


def _place(uri: str) -> str:
    """What follows the scheme, which may be written in several ways, or the path itself."""
    return uri.partition("://")[2] or uri


def wanted(
    uri: str, relative: str, allow: Sequence[str] | None, ignore: Sequence[str] | None
) -> bool:
    """Whether patterns take a file: by its name from the source, by its key, or by its URI.

    Run:ai matches whole keys or paths, so `*.json` takes files at any depth; by the name from the
    source, `config.json` takes that one file too. Case counts.
    """
    _, _, key = uri.partition("://")[2].partition("/")
    names = {uri, relative, key} if key else {uri, relative}

    def taken(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)

    return (allow is None or taken(allow)) and not (ignore and taken(ignore))


def storage_of(source: str, credentials: S3Credentials | None) -> Storage:
    """The storage that reads a source for this process.

    Raises:
        ConfigError: no storage reads that kind.
    """
    environ: Mapping[str, str] = with_credentials(os.environ, credentials)
    return storage_for(source, source_environment(source, environ).resolved())
