"""Access to one source: the current environment for reading it, or its opened files.

Credentials are resolved only in this process, where profiles, token files and metadata services
are. The daemon gets the outcome, the *environment*, with each open; reading without a daemon uses
the same. When credentials expire, the same `SourceEnvironment` renews them. Thread-safe: a client's
threads and the threads of its loads share one access.

A local source needs opened files instead of an environment. A checkpoint of some hundred shards
needs more descriptors than the usual soft limit of 1,024 leaves: one or two for each file, and one
for each slab. The limit is raised only when that is necessary, and only as far as needed, because
programs that use select(2) fail with descriptors past 1,023.
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
"""How many accesses a client keeps, so that opening a source again needs no new resolving."""
DESCRIPTORS_A_SHARD: Final = 3
"""Descriptors that one shard takes: two of its file, one of its slab."""
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
        """The environment to send now, or the last one if it cannot be renewed.

        Raises:
            ConfigError: a profile, region or endpoint is wrong.
            SourceForbidden: no credentials were ever found.
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
        """The storage that reads the source in this process; it raises as `environment` does."""
        return storage_for(self.uri, self.environment())

    def renewed_storage(self) -> Storage | None:
        """The storage with newer credentials; None if there are none."""
        before = self._last
        after = self.environment()
        return None if after == before else storage_for(self.uri, after)


class SourceAccesses:
    """A client's accesses to its sources, made anew when the process's environment changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, frozenset[tuple[str, str]]], SourceAccess] = {}

    def of(self, uri: str, environ: Mapping[str, str] = os.environ) -> SourceAccess:
        """The access to a source.

        Raises:
            ConfigError: no storage reads that kind of source.
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
    """Open a local source for the daemon, with room for more descriptors where that is possible.

    If there is no room for two descriptors of each file, files are opened once each. That gives up
    reading past the page cache, and reading itself is worth more. Raises as `open_local` does.
    """
    return open_local(source, pattern, files, room_for=_room_for)


def _room_for(shards: int) -> bool:
    """Whether the files of so many shards can be opened twice each, and their slabs once."""
    make_room(DESCRIPTORS_A_SHARD * shards)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _taken() + DESCRIPTORS_A_SHARD * shards <= soft


def make_room(count: int) -> bool:
    """Raise the limit if `count` more descriptors need it; return whether it was raised."""
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
    """How many descriptors are open, plus those that must stay free for other things."""
    return len(os.listdir("/proc/self/fd")) + SPARE
