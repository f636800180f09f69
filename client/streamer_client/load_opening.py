"""Opening one source with the daemon, the first time and again, with credentials that are fresh.

Owns what is asked and with which environment, and has the newest load's credentials renewed. What
to do when the daemon dies is left to `daemon_feed.py`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Final

import msgspec

from streamer_client.contract.errors import CredentialsExpired, DaemonUnavailable
from streamer_client.contract.messages import Open
from streamer_client.feed import FeedClosed
from streamer_client.link import Link
from streamer_client.load import DaemonLoad
from streamer_client.renewal import Renewal
from streamer_client.source_access import SourceAccess

log = logging.getLogger(__name__)

OPEN_ATTEMPTS: Final = 3
"""Daemons that may die one after the other before a load was opened."""

Cancelled = Callable[[], bool]


class LoadOpening:
    """Opens the loads of one feed.

    Args:
        link: way to the daemon.
        request: what to open, without numbers and environment.
        access: the way into the source.
    """

    def __init__(self, link: Link, request: Open, access: SourceAccess) -> None:
        self.access = access
        self._link = link
        self._request = request
        self._newest: DaemonLoad | None = None
        self._renewal = Renewal(access, self._renew)

    def first(self, cancelled: Cancelled) -> DaemonLoad:
        """Open; ask the next daemon where one died before it answered, as it may while we wait.

        Raises:
            FeedClosed: it was cancelled.
            StreamerError: no daemon, or it refuses.
        """
        try:
            return self._first(cancelled)
        except BaseException:
            self.close()
            raise

    def _first(self, cancelled: Cancelled) -> DaemonLoad:
        for attempt in itertools.count(1):
            connection = self._link.connection
            try:
                return self._opened(self._request, cancelled)
            except DaemonUnavailable as error:
                if connection.alive or attempt == OPEN_ATTEMPTS:
                    raise
                log.warning("event=opening_again reason=%r", str(error))
        raise AssertionError

    def again(self, files: tuple[str, ...], cancelled: Cancelled, *, hold: bool) -> DaemonLoad:
        """Open the same files in a load that wants nothing yet; raises as `first`."""
        request = msgspec.structs.replace(
            self._request, files=files, pattern=None, want="none", hold=hold
        )
        return self._opened(request, cancelled)

    def _opened(self, request: Open, cancelled: Cancelled) -> DaemonLoad:
        """Open with credentials as they are now; with newer ones where those just expired."""
        environment = self.access.variables()
        try:
            load = self._asked(request, environment, cancelled)
        except CredentialsExpired:
            newer = self.access.variables()
            if newer == environment:
                raise
            environment = newer
            load = self._asked(request, environment, cancelled)
        self._newest = load
        self._renewal.sent(environment)
        return load

    def _asked(
        self, request: Open, environment: dict[str, str], cancelled: Cancelled
    ) -> DaemonLoad:
        connection = self._link.connection

        def build(request_id: int, load: int) -> Open:
            return msgspec.structs.replace(
                request, request_id=request_id, load=load, environment=environment
            )

        try:
            return DaemonLoad(connection, build, cancelled, self._renewal.want)
        except CancelledError as error:
            raise FeedClosed from error

    def _renew(self, environment: dict[str, str]) -> None:
        """Called in the renewal's thread."""
        if self._newest is not None:
            self._newest.renew(environment)

    def close(self) -> None:
        """Renew nothing any more. Does not wait; idempotent."""
        self._renewal.close()
