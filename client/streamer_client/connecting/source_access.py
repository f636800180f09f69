"""Access to one source: the environment that reading it takes, up to date, and what reads with it.

Credentials are resolved in this process, where profiles, token files and metadata services are, and
nowhere else. The daemon gets the outcome, the *environment*, with each open; reading without a
daemon uses the same. Credentials that expire are asked for again of the same `SourceEnvironment`,
which renews them. Thread-safe: a client's threads and its loads' share one access.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from typing import Final

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import SourceEnvironment, Storage
from streamer_client.storage.registry import public_uri, source_environment, storage_for

logger = logging.getLogger(__name__)

RETAINED: Final = 16
"""So many accesses a client retains, so that opening a source again resolves nothing anew."""


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
