"""Opening one source with the daemon, the first time and again, with credentials that are fresh.

Owns what is asked and with which environment, and has the newest load's credentials renewed. What
to do when the daemon dies is left to `daemon_feed.py`.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Final

import msgspec

from streamer_client.connect.connection import Connection
from streamer_client.connect.link import Link
from streamer_client.connect.source_access import SourceAccess
from streamer_client.contract.errors import CredentialsExpired, DaemonUnavailable
from streamer_client.contract.messages import Open, Prefetch
from streamer_client.copy.feed import FeedClosed
from streamer_client.delivery.load import DaemonLoad
from streamer_client.delivery.renewal import Renewal
from streamer_client.storage.local_files import LocalFile

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
        files: its files, opened, where it is local; they are handed over with each open, and stay
            their owner's.
    """

    def __init__(
        self, link: Link, request: Open, access: SourceAccess, files: Sequence[LocalFile] = ()
    ) -> None:
        self.access = access
        self._link = link
        self._request = request
        self._files = files
        self._promised: tuple[Connection, int] | None = None
        self._newest: DaemonLoad | None = None
        self._renewal = Renewal(access, self._renew)

    def first(self, cancelled: Cancelled, *, may_bring_in: bool = False) -> DaemonLoad:
        """Open; ask the next daemon where one died before it answered, as it may while we wait.

        Args:
            cancelled: asked now and then.
            may_bring_in: let the daemon keep the files at hand for `bring_in`.

        Raises:
            FeedClosed: it was cancelled.
            StreamerError: no daemon, or it refuses.
        """
        try:
            return self._first(cancelled, may_bring_in=may_bring_in)
        except BaseException:
            self.close()
            raise

    def _first(self, cancelled: Cancelled, *, may_bring_in: bool) -> DaemonLoad:
        for attempt in itertools.count(1):
            connection = self._link.connection
            try:
                return self._opened(self._request, cancelled, may_bring_in=may_bring_in)
            except DaemonUnavailable as error:
                if connection.alive or attempt == OPEN_ATTEMPTS:
                    raise
                log.warning("event=opening_again reason=%r", str(error))
        raise AssertionError

    def again(self, uris: tuple[str, ...], cancelled: Cancelled, *, hold: bool) -> DaemonLoad:
        """Open the same shards in a load that wants nothing yet; raises as `first`."""
        named = None if self._files else uris
        request = msgspec.structs.replace(
            self._request, files=named, pattern=None, want="none", hold=hold
        )
        return self._opened(request, cancelled)

    def bring_in(self) -> None:
        """Have the daemon bring in what it kept at hand; safe in finalizers."""
        if self._promised is None:
            return
        connection, transfer = self._promised
        source = self._request.source
        connection.tell(lambda number: Prefetch(number, source, transfer))

    def let_go(self) -> None:
        """The daemon need not keep the files at hand any more; safe in finalizers."""
        if self._promised is not None:
            connection, transfer = self._promised
            self._promised = None
            connection.drop(transfer)

    def _opened(
        self, request: Open, cancelled: Cancelled, *, may_bring_in: bool = False
    ) -> DaemonLoad:
        """Open with credentials as they are now; with newer ones where those just expired."""
        environment = self.access.environment()
        try:
            load = self._asked(request, environment, cancelled, may_bring_in=may_bring_in)
        except CredentialsExpired:
            newer = self.access.environment()
            if newer == environment:
                raise
            environment = newer
            load = self._asked(request, environment, cancelled)
        self._newest = load
        self._renewal.sent(environment)
        return load

    def _asked(
        self,
        request: Open,
        environment: dict[str, str],
        cancelled: Cancelled,
        *,
        may_bring_in: bool = False,
    ) -> DaemonLoad:
        connection = self._link.connection
        transfer = connection.hand_over(self._files) if self._files else 0

        def build(request_id: int, load: int) -> Open:
            return msgspec.structs.replace(
                request,
                request_id=request_id,
                load=load,
                transfer=transfer,
                environment=environment,
            )

        opened = False
        try:
            load = DaemonLoad(connection, build, cancelled, self._renewal.want)
            opened = True
        except CancelledError as error:
            raise FeedClosed from error
        finally:
            if opened and may_bring_in and transfer:
                self._promised = connection, transfer
            else:
                connection.drop(transfer)
        return load

    def _renew(self, environment: dict[str, str]) -> None:
        """Called in the renewal's thread."""
        if self._newest is not None:
            self._newest.renew(environment)

    def close(self) -> None:
        """Renew nothing any more. Does not wait; idempotent."""
        self._renewal.close()
        self.let_go()
