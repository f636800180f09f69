"""Access to one source: the environment that reading it takes, up to date, or its files, opened.

Credentials are resolved in this process, where profiles, token files and metadata services are, and
nowhere else. The daemon gets the outcome, the *environment*, with each open; reading without a
daemon uses the same. Credentials that expire are asked for again of the same `SourceEnvironment`,
which renews them. Thread-safe: a client's threads and its loads' share one access.

A local source takes no environment but open files. A checkpoint of some hundred shards needs more
descriptors than the usual soft limit of 1,024 leaves: one or two for each file, and one for each
slab. The limit is raised only when it is in the way, and only as far as needed, as programs that
use select(2) fail with descriptors past 1,023.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import SourceEnvironment, Storage
from streamer_client.storage.local_files import LocalFile, open_local
from streamer_client.storage.registry import public_uri, source_environment, storage_for

logger = logging.getLogger(__name__)

RETAINED: Final = 16
"""How many accesses a client retains, so that opening a source again resolves nothing anew."""
DESCRIPTORS_A_SHARD: Final = 3
"""Its file, opened twice, and its slab."""
SPARE: Final = 64
"""Descriptors that stay free for everything else in this process."""


class SourceAccess:
    """One source's environment, and the storage that reads with it.

    Args:
        uri: the source, or one of its shards.
        resolver: resolves the environment, and renews credentials in it.
    """

    def __init__(self, uri: str, resolver: SourceEnvironment) -> None:
        self.uri = public_uri(uri)
        self._resolver = resolver
        self._lock = threading.Lock()
        self._last: dict[str, str] | None = None

    def environment(self) -> dict[str, str]:
        """The environment to send now; where it cannot be renewed, the last one.

        Raises:
            ConfigError: a profile, region or endpoint is wrong.
            SourceForbidden: there are no credentials, and never were any.
        """
        with self._lock:
            try:
                self._last = self._resolver.resolved()
            except StreamerError as error:
                if self._last is None:
                    raise
                logger.warning("event=not_renewed source=%r reason=%r", self.uri, str(error))
            return dict(self._last)

    def storage(self) -> Storage:
        """What reads the source in this process; raises as `environment`."""
        return storage_for(self.uri, self.environment())

    def renewed_storage(self) -> Storage | None:
        """The same with newer credentials; None where there are none."""
        before = self._last
        after = self.environment()
        return None if after == before else storage_for(self.uri, after)


class SourceAccesses:
    """A client's accesses to its sources; after the process's environment changed, new ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, frozenset[tuple[str, str]]], SourceAccess] = {}

    def of(self, uri: str, environ: Mapping[str, str] = os.environ) -> SourceAccess:
        """The access to a source.

        Raises:
            ConfigError: nothing reads that kind of source.
        """
        snapshot = dict(environ)
        key = uri, frozenset(snapshot.items())
        with self._lock:
            access = self._known.pop(key, None)
            if access is None:
                access = SourceAccess(uri, source_environment(uri, snapshot))
                while len(self._known) >= RETAINED:
                    self._known.pop(next(iter(self._known)))
            self._known[key] = access
            return access


# --- files of a local source --------------------------------------------------------------------


def open_files(
    source: str, pattern: str | None, files: Sequence[str] | None
) -> tuple[LocalFile, ...]:
    """Open a local source for the daemon; raises as `open_local`, and makes room where it can.

    Where there is no room for all, files are opened once each: reading past the page cache is worth
    less than reading.
    """
    return open_local(source, pattern, files, room_for=_room_for)


def _room_for(shards: int) -> bool:
    """Whether the files of so many shards can be opened twice each, and their slabs once."""
    make_room(DESCRIPTORS_A_SHARD * shards)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _taken() + DESCRIPTORS_A_SHARD * shards <= soft


def make_room(count: int) -> bool:
    """Raise the limit where `count` more descriptors need that; whether it was raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(hard, _taken() + count)
    if needed <= soft:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        logger.debug("event=limit_not_raised limit=%d reason=%s", needed, error)
        return False
    logger.debug("event=descriptor_limit_raised from=%d to=%d", soft, needed)
    return True


def _taken() -> int:
    """How many descriptors are open, and those that stay free for other things."""
    return len(os.listdir("/proc/self/fd")) + SPARE
