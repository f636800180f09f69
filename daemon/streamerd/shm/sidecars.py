"""Sidecars: what is written down about each slab, so that the cache outlives its daemon.

Owns the folder `<socket>.slabs`: one small file a slab, and a mark that the last daemon ended in
good order. Runs in the daemon's loop, and at start in one thread; one daemon at a time, which the
socket's lock sees to. No environment and no credentials of any client ever come in here.

Why a kill at any moment does no harm:

- A file is written beside its place and renamed into it, so that it is whole, old or new.
- Files are written twice a second, not with every block. Without the mark they are therefore hints:
  a block that was given up since, or given up and half filled again, may still be claimed. So a
  claimed block counts only once its bytes have the checksum that was taken when it was read.
- The mark is written last, after workers have ended and every file was brought up to date, and is
  taken away before anything else is done. With it, files say what is.
- A block that no file claims is given back before its slab is used, so the account stays true. Only
  a slab that clients may have mapped is different. Without the mark, they may have been granted
  blocks in the last half second that its file does not claim: such a slab is left to them
  (unlinked) unless the file claims all of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Final

import msgspec

from streamer_client.contract.errors import ConfigError

logger = logging.getLogger(__name__)

VERSION: Final = 1
SUFFIX: Final = ".slab"
_UNFINISHED: Final = ".new"
_MARK: Final = "ended-well"


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One slab."""

    version: int
    uri: str
    identity: str
    size_bytes: int
    block_bytes: int
    slab: str
    inode: int
    """Of the object itself: another one of that name is none of ours."""
    resident: bytes
    """One byte a block, 1 where the slab has it."""
    checksums: bytes
    """As `Checksums.packed`."""
    pinned: bool
    last_used_s: float
    """On the system's monotonic clock, which goes on when the daemon does not."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Sidecar)


class SidecarFolder:
    """The sidecars of the daemon at one socket."""

    def __init__(self, socket_path: str) -> None:
        self.path = socket_path + ".slabs"

    def make(self) -> None:
        """Make the folder, for this user alone.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            os.makedirs(self.path, mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.path}: {error.strerror}; let this user write beside the "
                "socket, or choose another --socket"
            ) from error

    def take_mark(self) -> bool:
        """Whether the last daemon ended in good order; from now on nobody can tell any more."""
        try:
            os.unlink(self._file(_MARK))
        except FileNotFoundError:
            return False
        return True

    def mark(self) -> None:
        """Say that every file is up to date and nothing is under way.

        Raises:
            OSError: it cannot be written.
        """
        self._put(_MARK, b"")

    def read_all(self) -> list[Sidecar]:
        """Every sidecar that can be understood; what cannot is removed."""
        found = []
        for name in self._names():
            try:
                with open(self._file(name), "rb") as file:
                    sidecar = _decoder.decode(file.read())
            except (OSError, msgspec.DecodeError) as error:
                logger.warning("sidecar not understood file=%s error=%s", name, error)
                sidecar = None
            if sidecar is None or sidecar.version != VERSION or name != _name(sidecar.slab):
                self._remove(name)
            else:
                found.append(sidecar)
        return found

    def write(self, sidecar: Sidecar) -> None:
        """Put a slab's file in place of its last one.

        Raises:
            OSError: it cannot be written.
        """
        self._put(_name(sidecar.slab), _encoder.encode(sidecar))

    def remove(self, slab: str) -> None:
        """Forget a slab. Nothing happens when it is not known."""
        self._remove(_name(slab))

    def clear(self) -> None:
        """Forget everything, and the folder."""
        self.take_mark()
        for name in self._names():
            self._remove(name)
        with contextlib.suppress(OSError):  # not there, or something else was put in it
            os.rmdir(self.path)

    def _names(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            ours = (SUFFIX, _UNFINISHED)
            return sorted(name for name in os.listdir(self.path) if name.endswith(ours))
        return []

    def _put(self, name: str, data: bytes) -> None:
        unfinished = self._file(name + _UNFINISHED)
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
        os.rename(unfinished, self._file(name))

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file(name))

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


def _name(slab: str) -> str:
    return slab.lstrip("/").replace("/", "_") + SUFFIX
