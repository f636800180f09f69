"""How this process may read one source: what of its environment counts, kept up to date.

The caller's credentials are resolved here, where profiles, token files and metadata services are,
and nowhere else: the daemon gets the outcome with each open, and reading without a daemon uses the
same. Credentials that run out are asked for again of the same `SourceEnvironment`, which renews
them. Thread-safe.
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

log = logging.getLogger(__name__)

KEPT: Final = 16
"""Sources whose way in a client keeps, so that opening one again resolves nothing anew."""


class SourceAccess:
    """One source's environment and storage.

    Args:
        uri: the source, or one of its shards.
        caller: resolves what of the environment counts.
    """

    def __init__(self, uri: str, caller: SourceEnvironment) -> None:
        self.uri = public_uri(uri)
        self._caller = caller
        self._lock = threading.Lock()
        self._last: dict[str, str] | None = None

    def variables(self) -> dict[str, str]:
        """What to send along now; the last that were had, where new ones cannot be.

        Raises:
            ConfigError: a profile, region or endpoint is wrong.
            SourceForbidden: there are no credentials, and never were any.
        """
        with self._lock:
            try:
                self._last = self._caller.resolved()
            except StreamerError as error:
                if self._last is None:
                    raise
                log.warning("event=not_renewed source=%r reason=%r", self.uri, str(error))
            return dict(self._last)

    def storage(self) -> Storage:
        """What reads the source in this process; raises as `variables`."""
        return storage_for(self.uri, self.variables())

    def renewed_storage(self) -> Storage | None:
        """The same with newer credentials; None where there are none."""
        before = self._last
        after = self.variables()
        return None if after == before else storage_for(self.uri, after)


class SourceAccesses:
    """A client's ways into its sources; a changed environment of the process makes new ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, frozenset[tuple[str, str]]], SourceAccess] = {}

    def of(self, uri: str, environ: Mapping[str, str] = os.environ) -> SourceAccess:
        """The way into a source.

        Raises:
            ConfigError: nothing reads that kind of source.
        """
        snapshot = dict(environ)
        key = uri, frozenset(snapshot.items())
        with self._lock:
            access = self._known.pop(key, None)
            if access is None:
                access = SourceAccess(uri, source_environment(uri, snapshot))
                while len(self._known) >= KEPT:
                    self._known.pop(next(iter(self._known)))
            self._known[key] = access
            return access
