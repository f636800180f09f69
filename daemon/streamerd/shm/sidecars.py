"""Sidecars: files that describe the slabs, so that the cache outlives its daemon.

This module owns the folder `<socket>.slabs`, with one small file for each slab, and a mark that the
last daemon ended in good order. Folder and files count only if they belong to this user, and links
are not followed. Runs in the daemon's loop, and at start in one thread. The socket's lock ensures
that only one daemon at a time uses the folder. No client's environment or credentials are ever
written here.

Why a kill at any moment does no harm:

- A file is written under another name and then renamed. So it is always complete: either the old
one or the new one.
- Files are written twice a second, not with every block. Without the mark they may be out of date:
  a file may still claim a block that was released since, or released and half filled again. So a
  claimed block counts only once its bytes have the checksum that was taken when it was read.
- The mark is written last, after workers have ended and every file was brought up to date, and the
  next daemon removes it before it does anything else. With the mark, the files are right.
- The memory of a block that no file claims is released before its slab is used, so that the ledger
  stays true. The exception is a slab that clients may have mapped. Without the mark, they may have
  been granted blocks in the last half second that its file does not claim. Such a slab is unlinked
  and left to them, unless the file claims all of its blocks.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final

import msgspec

from streamer_client.connecting.private_files import (
    PRIVATE_FOLDER,
    make_folders,
    open_own,
    open_own_folder,
)
from streamer_client.contract.errors import ConfigError

logger = logging.getLogger(__name__)

VERSION: Final = 2
SUFFIX: Final = ".slab"
_UNFINISHED: Final = ".new"
_MARK: Final = "ended-well"


class Label(msgspec.Struct, frozen=True):
    """The name by which a client asked for a shard."""

    uid: int
    """The client's user, as the kernel told it."""
    world: int
    """The mount namespace in which the name means something; 0 if it means the same in all."""
    text: str


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of a sidecar: its description of its slab."""

    version: int
    uri: str
    """The shard's name in messages: its first label, or the object's URI."""
    identity: str
    size_bytes: int
    block_bytes: int
    slab: str
    inode: int
    """Inode of the slab; an object of that name with another inode is not this daemon's."""
    resident: bytes
    """One byte for each block; 1 where the block is resident."""
    checksums: bytes
    """The blocks' checksums in the form that `Checksums.packed` makes."""
    pinned: bool
    last_used_s: float
    """The time of last use on the system's monotonic clock, which goes on while no daemon runs."""
    edition: int = 0
    """The edition of the content. The first content of this identity has 0, and each time that
    other bytes were found the number grows by one."""
    ctime_ns: int = 0
    """The file's ctime when its bytes were last known to be those in the slab; 0 for objects."""
    labels: tuple[Label, ...] = ()
    pinned_by: tuple[int, ...] = ()
    """Ids of the users who pinned the shard."""
    remote: bool = False
    """Whether the shard is an object of a store rather than a file."""


class _Outdated(msgspec.Struct, frozen=True):
    """The fields that sidecars of all versions have."""

    version: int
    slab: str
    inode: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Sidecar)
_any_version = msgspec.msgpack.Decoder(_Outdated)


class SidecarFolder:
    """The sidecars of the daemon at one socket."""

    def __init__(self, socket_path: str) -> None:
        self.path = socket_path + ".slabs"

    def make(self) -> None:
        """Make the folder, for this user alone.

        Raises:
            ConfigError: it cannot be made, or is not this user's.
        """
        try:
            make_folders(self.path, PRIVATE_FOLDER)
            folder = open_own_folder(self.path)
            try:
                os.fchmod(folder, PRIVATE_FOLDER)
            finally:
                os.close(folder)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.path}: {error.strerror}; let this user write beside the "
                "socket, remove what is there if it is not a daemon's, or choose another --socket"
            ) from error

    def take_mark(self) -> bool:
        """Whether the last daemon ended in good order. Removes the mark that says so."""
        with self._opened() as folder:
            if folder is None:
                return False
            try:
                os.close(open_own(_MARK, os.O_RDONLY, folder=folder))
                ended_well = True
            except OSError:  # there is no mark, or it belongs to another user
                ended_well = False
            self._remove(_MARK, folder)
            return ended_well

    def mark(self) -> None:
        """Write the mark: every file is up to date, and no work is under way.

        Raises:
            OSError: it cannot be written.
        """
        self._put(_MARK, b"")

    def read_all(self) -> list[Sidecar]:
        """Every sidecar that can be decoded. Files that cannot be decoded are removed."""
        found = []
        for name, folder in self._each():
            try:
                sidecar = _decoder.decode(_content(name, folder))
            except (OSError, msgspec.DecodeError) as error:
                logger.warning("event=sidecar_not_understood file=%s error=%s", name, error)
                sidecar = None
            if sidecar is None or sidecar.version != VERSION or name != _name(sidecar.slab):
                self._remove(name, folder)
            else:
                found.append(sidecar)
        return found

    def take_outdated(self) -> list[tuple[str, int]]:
        """Remove the sidecars of another version; returns their slabs' names and inodes."""
        found = []
        for name, folder in self._each():
            try:
                old = _any_version.decode(_content(name, folder))
            except (OSError, msgspec.DecodeError):
                continue  # `read_all` logs it
            if old.version != VERSION and name == _name(old.slab):
                found.append((old.slab, old.inode))
                self._remove(name, folder)
        return found

    def write(self, sidecar: Sidecar) -> None:
        """Write a slab's sidecar, which replaces the sidecar before it.

        Raises:
            OSError: it cannot be written.
        """
        self._put(_name(sidecar.slab), _encoder.encode(sidecar))

    def remove(self, slab: str) -> None:
        """Remove a slab's sidecar; no effect if there is none."""
        with self._opened() as folder:
            self._remove(_name(slab), folder)

    def clear(self) -> None:
        """Remove all sidecars, the mark and the folder."""
        self.take_mark()
        for name, folder in self._each():
            self._remove(name, folder)
        with contextlib.suppress(OSError):  # it does not exist, or has files of somebody else
            os.rmdir(self.path)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """The folder's descriptor; None if this user has no such folder."""
        try:
            folder = open_own_folder(self.path)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            logger.warning("event=sidecars_not_used folder=%s reason=%r", self.path, error.strerror)
            yield None
            return
        try:
            yield folder
        finally:
            os.close(folder)

    def _each(self) -> Iterator[tuple[str, int]]:
        """The name of each file, and the folder's descriptor."""
        with self._opened() as folder:
            if folder is not None:
                ours = (SUFFIX, _UNFINISHED)
                names = sorted(name for name in os.listdir(folder) if name.endswith(ours))
                for name in names:
                    yield name, folder

    def _put(self, name: str, data: bytes) -> None:
        unfinished = name + _UNFINISHED
        folder = open_own_folder(self.path)
        try:
            self._remove(unfinished, folder)  # a daemon that was killed may have left it
            fd = open_own(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, folder=folder)
            with open(fd, "wb") as file:
                file.write(data)
            os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def _remove(self, name: str, folder: int | None) -> None:
        if folder is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def _content(name: str, folder: int) -> bytes:
    with open(open_own(name, os.O_RDONLY, folder=folder), "rb") as file:
        return file.read()


def _name(slab: str) -> str:
    return slab.lstrip("/").replace("/", "_") + SUFFIX
