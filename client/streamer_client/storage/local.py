"""Local checkpoints: a directory of files, or files by name.

Owns finding and naming files, and opening one by its path with this process's rights.
`local_files.py` holds them open, and `local_reader.py` reads. Runs where a path means what the user
means: in the client, in `streamerctl`, and in the daemon for its own configuration's paths.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import unquote

from streamer_client.contract.errors import ConfigError, SourceChanged, SourceError, SourceNotFound
from streamer_client.storage.contract import SourceKind, StoredShard
from streamer_client.storage.local_reader import LocalReader, identity_of
from streamer_client.storage.names import DEFAULT_PATTERN, natural_key, select, some_of
from streamer_client.storage.os_errors import absolute_path, source_error

_FILE_SCHEME = "file://"


class LocalStorage:
    """Files that the system reaches by a path; symbolic links are followed."""

    def list_shards(
        self, source: str, pattern: str | None, files: Sequence[str] | None
    ) -> tuple[StoredShard, ...]:
        """The shards of a directory, in natural order of their names, or `files` in their own.

        A relative name in `files` is taken from `source`, a relative `source` from the working
        directory.

        Raises:
            SourceNotFound: nothing is there, or no file matches the pattern.
            SourceForbidden: no permission.
            SourceError: a directory in place of a file, a dead link, and so on.
            ConfigError: `files` is empty or names a file twice.
        """
        base = local_path(source)
        if files is not None:
            return _named(base, source, files)
        if not stat.S_ISDIR(_status(base).st_mode):
            return (_shard(base),)
        return tuple(_shard(os.path.join(base, name)) for name in _matches(base, pattern))

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """Every regular file under a directory, at any depth, or the file that `source` is.

        Raises:
            SourceNotFound: no such directory or file.
            SourceForbidden: no permission.
            SourceError: a dead link, or a name that is not UTF-8.
        """
        base = local_path(source)
        if not stat.S_ISDIR(_status(base).st_mode):
            paths = [base]
        else:
            paths = sorted(_files_under(base), key=natural_key)
        return tuple(_shard(path) for path in paths if take is None or take(path))

    def open(self, shard: StoredShard) -> LocalReader:
        """Open a shard for reading.

        Raises:
            SourceChanged: the file is no longer that of `shard.identity`, or has vanished.
            SourceForbidden: no permission.
            SourceError: the file cannot be opened for another reason.
        """
        fd = _open_again(shard)
        try:
            return LocalReader(fd, shard)
        except BaseException:
            os.close(fd)
            raise


def local_path(source: str) -> str:
    """The absolute path that a path or a `file://` URI means.

    Raises:
        ConfigError: the URI names another host, or the text cannot be a path.
    """
    path = source
    if _is_uri(source):
        host, slash, rest = source[len(_FILE_SCHEME) :].partition("/")
        if host not in ("", "localhost") or not slash:
            raise ConfigError(f"{source}: not a file of this host; write file:///absolute/path")
        path = "/" + unquote(rest)
    if not path or "\0" in path:
        raise ConfigError(f"{source!r} is no path; give the directory of the checkpoint")
    return absolute_path(path)


def _is_uri(text: str) -> bool:
    return text[: len(_FILE_SCHEME)].lower() == _FILE_SCHEME


def _named(base: str, source: str, files: Sequence[str]) -> tuple[StoredShard, ...]:
    if not files:
        raise ConfigError(
            f"{source}: the list of files is empty; name at least one, or leave it out"
        )
    paths = [local_path(name if _is_uri(name) else os.path.join(base, name)) for name in files]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ConfigError(
            f"{source}: the list of files names twice: {some_of(twice)}; name each once"
        )
    return tuple(_shard(path) for path in paths)


def _matches(directory: str, pattern: str | None) -> list[str]:
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise source_error(directory, error, "list the directory") from error
    wanted = pattern or DEFAULT_PATTERN
    matches = select(names, wanted)
    if not matches:
        raise SourceNotFound(
            f"{directory}: no file matches {wanted!r}; there is: {some_of(names)}; "
            "check the directory and the pattern"
        )
    return matches


def _files_under(directory: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise source_error(error.filename or directory, error, "list the directory") from error

    for folder, _, names in os.walk(directory, onerror=refuse, followlinks=False):
        for name in names:
            path = os.path.join(folder, name)
            if stat.S_ISREG(_status(path).st_mode):
                yield path


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """A descriptor of a regular file, and its status. The caller closes the descriptor.

    The file is checked before it is opened, because opening a device may have effects. It is
    checked again afterwards, because only the descriptor tells what was opened. O_NONBLOCK keeps
    the open from waiting at a FIFO that was put there in between.

    Raises:
        SourceNotFound: there is no such file.
        SourceForbidden: no permission.
        SourceError: a directory, a FIFO and so on is in its place, or too many files are open.
    """
    _refuse_irregular(path, _status(path))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise source_error(path, error, "open it") from error
    try:
        status = os.fstat(fd)
        _refuse_irregular(path, status)
        os.set_blocking(fd, True)
    except OSError as error:
        os.close(fd)
        raise source_error(path, error, "look at it") from error
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def _shard(path: str) -> StoredShard:
    status = _status(path)
    _refuse_irregular(path, status)
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise SourceError(f"{path!r}: the name is not UTF-8; rename the file") from error
    return StoredShard(path, status.st_size, identity_of(status))


def _refuse_irregular(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise SourceError(f"{path}: is a directory, and a file is needed; name the files in it")
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{path}: is no regular file, so it has no fixed size; copy it to one")


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise source_error(path, error, "look at it") from error


def _open_again(shard: StoredShard) -> int:
    """Open the file that lies at the shard's path now, and return its descriptor."""
    try:
        fd, _ = open_regular(shard.uri)
    except SourceNotFound as error:
        raise SourceChanged(
            f"{shard.uri}: vanished since the load began (expected {shard.identity}); "
            "open the checkpoint again once it is complete"
        ) from error
    return fd


class LocalEnvironment:
    """The environment of local files; it is empty, as each process reads with its own rights."""

    def resolved(self) -> dict[str, str]:
        """See `SourceEnvironment`."""
        return {}


KIND: Final = SourceKind(
    storage=lambda _environment: LocalStorage(),
    environment=lambda _uri, _environ: LocalEnvironment(),
    public_uri=str,
)
