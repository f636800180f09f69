"""Local checkpoints held open: files that one process opened, to read or to pass on.

Owns the descriptors of a load: each file is opened once, with the rights of this process. A
descriptor stays with its file, whatever the file's name means later. Runs in the client, which
passes the descriptors to a daemon, or reads through them itself without one. Also runs in the
daemon for files that its own configuration names.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from streamer_client.contract.errors import SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.local import LocalStorage, open_regular
from streamer_client.storage.local_reader import DIRECT_FLAGS, LocalReader, identity_of
from streamer_client.storage.os_errors import descriptor_error

_CLOSED: Final = -1


class LocalFile:
    """One file, opened by this process with its own rights.

    Args:
        uri: absolute path, as the user names the file.
        direct: whether to open the file a second time, for O_DIRECT alone.

    Attributes:
        uri: absolute path, as given.
        fd: descriptor for reading through the page cache; -1 once closed.
        direct_fd: descriptor of the same file, opened with O_DIRECT; None if the file system
            refuses that, or if it was not asked for. It is no copy of `fd`, because copies share
            their flags.
            or where it was not asked for. It is no copy of `fd`: copies share their flags.
        shard: path, size and identity; the identity lacks disk and owner, which a daemon adds.
        ctime_ns: the file's ctime when it was opened.

    Raises:
        SourceNotFound: there is no such file.
        SourceForbidden: no permission.
        SourceError: the file is not regular, or too many files are open (the text names `ulimit
            -n`).
    """

    __slots__ = ("ctime_ns", "direct_fd", "fd", "shard", "uri")

    def __init__(self, uri: str, *, direct: bool = True) -> None:
        self.uri = uri
        self.direct_fd: int | None = None
        self.fd, status = open_regular(uri)
        self.shard = StoredShard(uri, status.st_size, identity_of(status))
        self.ctime_ns = status.st_ctime_ns
        try:
            if direct:
                self.direct_fd = _open_direct(uri, self.fd, status)
        except OSError as error:
            self.close()
            raise descriptor_error(uri, error, "open it a second time") from error

    @property
    def inode(self) -> tuple[int, int]:
        """Device and inode, which are the same for two names of one file."""
        _, device, inode, *_ = self.shard.identity.split(":")
        return int(device), int(inode)

    def close(self) -> None:
        """Close both descriptors. Idempotent."""
        for fd in (self.fd, self.direct_fd):
            if fd is not None and fd != _CLOSED:
                os.close(fd)
        self.fd, self.direct_fd = _CLOSED, None


def open_local(
    source: str,
    pattern: str | None,
    files: Sequence[str] | None,
    *,
    direct: bool = True,
    room_for: Callable[[int], bool] = lambda _count: True,
) -> tuple[LocalFile, ...]:
    """Open the files that `LocalStorage.list_shards` lists, in its order.

    If two names that match the pattern lead to one file (by hard or symbolic links), the file is
    opened once, under the first name. Files that are named one by one are each opened.

    Args:
        source: as in `list_shards`.
        pattern: as in `list_shards`.
        files: as in `list_shards`.
        direct: whether to open each file a second time, for O_DIRECT.
        room_for: asked before any file is opened whether so many files can be opened twice.

    Raises:
        SourceError: as in `list_shards`, or too many files are open.
        ConfigError: `files` is empty or names a file twice.
    """
    listed = LocalStorage().list_shards(source, pattern, files)
    direct = room_for(len(listed)) and direct
    opened: list[LocalFile] = []
    seen: set[tuple[int, int]] = set()
    with contextlib.ExitStack() as undo:
        for shard in listed:
            file = LocalFile(shard.uri, direct=direct)
            if files is None and file.inode in seen:
                file.close()
                continue
            undo.callback(file.close)
            seen.add(file.inode)
            opened.append(file)
        undo.pop_all()
    return tuple(opened)


class DescriptorStorage:
    """A storage of files that are already open; whoever opened them closes them."""

    def __init__(self, files: Iterable[LocalFile]) -> None:
        self._files = {file.uri: file for file in files}

    def list_shards(
        self,
        source: str,
        pattern: str | None,  # noqa: ARG002  the files were chosen when they were opened
        files: Sequence[str] | None,  # noqa: ARG002
    ) -> tuple[StoredShard, ...]:
        """The shards of all the files, in the order given.

        Raises:
            SourceNotFound: there is no file.
        """
        if not self._files:
            raise SourceNotFound(f"{source}: no file of it was opened; open the checkpoint anew")
        return tuple(file.shard for file in self._files.values())

    def list_all(
        self, source: str, take: Callable[[str], bool] | None = None
    ) -> tuple[StoredShard, ...]:
        """The shards whose URI `take` accepts."""
        shards = self.list_shards(source, None, None)
        return tuple(shard for shard in shards if take is None or take(shard.uri))

    def open(self, shard: StoredShard) -> LocalReader:
        """A reader over copies of the descriptors, so that closing it closes none of the files.

        Raises:
            SourceNotFound: no file of that name was opened, or it was closed.
            SourceChanged: the file is no longer that of `shard.identity`.
            SourceError: too many files are open.
        """
        file = self._files.get(shard.uri)
        if file is None or file.fd == _CLOSED:
            raise SourceNotFound(
                f"{shard.uri}: is not among the files that this load has open; open the "
                "checkpoint anew"
            )
        with contextlib.ExitStack() as undo:
            copies: list[int] = []
            for fd in (file.fd, file.direct_fd):
                if fd is not None:
                    copies.append(_copy_of(fd, shard.uri))
                    undo.callback(os.close, copies[-1])
            reader = LocalReader(copies[0], shard, *copies[1:])
            undo.pop_all()
        return reader


def _copy_of(fd: int, uri: str) -> int:
    try:
        return os.dup(fd)
    except OSError as error:
        raise descriptor_error(uri, error, "copy its descriptor") from error


def _open_direct(path: str, fd: int, status: os.stat_result) -> int | None:
    """Open the same file a second time, independently; None if O_DIRECT is refused.

    Raises:
        OSError: too many files are open.
    """
    # /proc leads to the open file itself. Without /proc the path is used, which may lead elsewhere
    # by now.
    for way in (f"/proc/self/fd/{fd}", path):
        try:
            direct_fd = os.open(way, DIRECT_FLAGS)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return None
        if os.path.samestat(os.fstat(direct_fd), status):
            return direct_fd
        os.close(direct_fd)
    return None
