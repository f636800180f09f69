"""Lists the files under a directory or an object-store prefix that match patterns.

Owns the answers of Run:ai's two listing functions and how a pattern matches a file. `storage/`
lists what exists. Runs in the calling process and thread.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from streamer_client.contract.errors import SourceNotFound
from streamer_client.contract.printable import printable
from streamer_client.runai.failures import as_value_error
from streamer_client.runai.s3_utils.s3_utils import S3Credentials, with_credentials
from streamer_client.storage.contract import BucketNotFound, Storage, StoredShard
from streamer_client.storage.names import natural_key
from streamer_client.storage.object_uri import ObjectUri
from streamer_client.storage.os_errors import absolute_path, source_error
from streamer_client.storage.prefixes import PrefixStorage
from streamer_client.storage.registry import source_environment, storage_for

logger = logging.getLogger(__name__)

SAFETENSORS_PATTERN: Final = "*.safetensors"

Choice = Callable[[str, str], bool]
"""Called with a file's URI and its name below the source; True if the file is wanted."""


def list_safetensors(path: str, s3_credentials: S3Credentials | None = None) -> list[str]:
    """Paths or URIs of the safetensors files directly under `path`, part-2 before part-10.

    The list is empty if there are no such files; the log then tells what was looked for. Paths
    begin with `path` as it is written, so those of a relative directory are relative.

    Args:
        path: a directory or an object-store prefix.
        s3_credentials: used in place of the environment's.

    Raises:
        ValueError: the path may not be listed, there is no such bucket, or the store does not
            answer; also a StreamerError.
    """
    source = os.fspath(path)
    with as_value_error():
        found = _objects(source, s3_credentials) if "://" in source else _names(source)
    if not found:
        logger.warning("event=no_safetensors source=%s", printable(source))
    return found


def _names(directory: str) -> list[str]:
    """The names that a shell finds for `directory/*.safetensors`: also folders, no hidden ones."""
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise source_error(directory, error, "list the directory") from error
    wanted = [name for name in fnmatch.filter(names, SAFETENSORS_PATTERN) if name[0] != "."]
    return [os.path.join(directory, name) for name in sorted(wanted, key=natural_key)]


def _objects(source: str, credentials: S3Credentials | None) -> list[str]:
    try:
        shards = storage_of(source, credentials).list_shards(source, SAFETENSORS_PATTERN, None)
    except SourceNotFound as error:
        if isinstance(error, BucketNotFound):
            raise
        return []
    return [shard.uri for shard in shards if _place(shard.uri) != _place(source)]


def list_files(
    source: str,
    *,
    recursive: bool,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
) -> list[tuple[str, int]]:
    """Paths or URIs under a directory or prefix with their sizes, in natural order.

    An object-store prefix is a plain text here, as in Run:ai's streamer: `s3://b/m` also lists
    `s3://b/m2/x`.

    Args:
        source: the directory or prefix.
        recursive: whether to list at any depth, or only directly under the source.
        allow: globs; only matches are kept. None or an empty list keeps all.
        ignore: globs; matches are dropped.

    Raises:
        SourceNotFound: there is no such directory or bucket.
        SourceError: the source cannot be listed.
    """

    def chosen(uri: str, relative: str) -> bool:
        return (recursive or "/" not in relative) and wanted(uri, relative, allow or None, ignore)

    if "://" not in source:
        return _files(source, chosen)
    storage = storage_of(source, None)
    if isinstance(storage, PrefixStorage):
        return [(one.uri, one.size_bytes) for one in _with_prefix(storage, source, chosen)]
    return [(one.uri, one.size_bytes) for one, _ in found_under(storage, source, chosen)]


def _files(directory: str, chosen: Choice) -> list[tuple[str, int]]:
    """Regular files and links to such under a directory, without dead links, as in Run:ai's."""

    def refuse(error: OSError) -> None:
        raise source_error(error.filename or directory, error, "list the directory") from error

    found = []
    for folder, _, names in os.walk(directory, onerror=refuse):
        for name in names:
            path = os.path.join(folder, name)
            if chosen(path, path[len(directory) :].lstrip("/")):
                with suppress(FileNotFoundError):
                    status = os.stat(path)
                    if stat.S_ISREG(status.st_mode):
                        found.append((path, status.st_size))
    return sorted(found, key=lambda one: natural_key(one[0]))


class _TextPrefix(ObjectUri):
    """All objects whose key begins with a text, whether the text ends with a slash or not."""

    __slots__ = ()

    @property
    def prefix(self) -> str:
        return self.key


def _with_prefix(storage: PrefixStorage, source: str, chosen: Choice) -> Iterator[StoredShard]:
    uri = storage.uri(source)
    prefix = _TextPrefix(uri.scheme, uri.bucket, uri.key)
    listed = {each.key: each for page in storage.pages(prefix, deep=True) for each in page.objects}
    keys = [key for key in sorted(listed, key=natural_key) if not key.endswith("/")]
    found = ((uri.named(key), listed[key]) for key in keys)
    yield from storage.shards_of(
        [each for each in found if chosen(str(each[0]), each[1].key.removeprefix(uri.key))]
    )


def found_under(storage: Storage, source: str, chosen: Choice) -> Iterator[tuple[StoredShard, str]]:
    """The chosen files under a source, each with its name below it.

    If the source is itself a file, its name is the file's own. Files that are not chosen are not
    looked at.
    """
    base = (_place(source) if "://" in source else absolute_path(source)).rstrip("/") + "/"

    def relative(uri: str) -> str:
        place = _place(uri)
        return place.removeprefix(base) if place.startswith(base) else place.rpartition("/")[2]

    def take(uri: str) -> bool:
        # Some tools leave an empty object for a folder; its name ends with a slash.
        return not uri.endswith("/") and chosen(uri, relative(uri))

    for shard in storage.list_all(source, take):
        yield shard, relative(shard.uri)


def _place(uri: str) -> str:
    """The part of a URI after its scheme, whose form may vary, or a path itself."""
    return uri.partition("://")[2] or uri


def wanted(
    uri: str, relative: str, allow: Sequence[str] | None, ignore: Sequence[str] | None
) -> bool:
    """Whether patterns match a file: by its name below the source, by its key, or by its URI.

    Run:ai matches whole keys or paths, so `*.json` matches files at any depth. The name below the
    source lets `config.json` match that one file too. Case counts.
    """
    _, _, key = uri.partition("://")[2].partition("/")
    names = {uri, relative, key} if key else {uri, relative}

    def taken(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)

    return (allow is None or taken(allow)) and not (ignore and taken(ignore))


def storage_of(source: str, credentials: S3Credentials | None) -> Storage:
    """The storage that reads a source in this process.

    Raises:
        ConfigError: no storage reads that kind of source.
    """
    environ: Mapping[str, str] = with_credentials(os.environ, credentials)
    return storage_for(source, source_environment(source, environ).resolved())
