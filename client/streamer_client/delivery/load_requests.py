"""The requests of one source's reader to a daemon: to open, to open again, to bring in later.

Owns the form of the requests and their credentials, and renews those of the newest load.
`pass_state.py` decides when to ask; the threads of `daemon_feed.py` call this module.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from typing import Final

import msgspec

from streamer_client.connecting.connection import Connection
from streamer_client.connecting.link import Link
from streamer_client.connecting.source_access import SourceAccess
from streamer_client.contract.errors import (
    CredentialsExpired,
    DaemonUnavailable,
    SourceChanged,
)
from streamer_client.contract.messages import Open, Prefetch
from streamer_client.copy.feed import FeedClosed
from streamer_client.delivery.leased_load import LeasedLoad
from streamer_client.delivery.renewal import Renewal
from streamer_client.storage.local_files import LocalFile

logger = logging.getLogger(__name__)

OPEN_ATTEMPTS: Final = 3
"""How many daemons in turn may die before the load is opened."""

Cancelled = Callable[[], bool]


class LoadRequests:
    """The requests for one source.

    Args:
        link: the way to the daemon.
        request: the source to open, without numbers and environment.
        access: the access to the source.
        files: the opened files of a local source. They are handed over with each open; their owner
            closes them.
    """

    def __init__(
        self, link: Link, request: Open, access: SourceAccess, files: Sequence[LocalFile] = ()
    ) -> None:
        self.access = access
        self._link = link
        self._request = request
        self._files = files
        self._promised: tuple[Connection, int] | None = None
        self._newest: LeasedLoad | None = None
        self._renewal = Renewal(access, self._renew)

    def first(
        self, cancelled: Cancelled, *, wants_all: bool = True, promised: bool = False
    ) -> LeasedLoad:
        """Open the source. If the daemon dies before it answers, ask the next daemon.

        Args:
            cancelled: asked now and then; the wait ends when it returns True.
            wants_all: whether the daemon is to bring every block in, in file order.
            promised: whether the daemon keeps the files open for `bring_in`.

        Raises:
            FeedClosed: `cancelled` returned True.
            StreamerError: there is no daemon, or the daemon refuses.
        """
        request = msgspec.structs.replace(self._request, want="all" if wants_all else "none")
        try:
            return self._first(request, cancelled, promised=promised)
        except BaseException:
            self.close()
            raise

    def _first(self, request: Open, cancelled: Cancelled, *, promised: bool) -> LeasedLoad:
        for attempt in itertools.count(1):
            connection = self._link.connection
            try:
                return self._opened(request, cancelled, promised=promised)
            except DaemonUnavailable as error:
                if connection.alive or attempt == OPEN_ATTEMPTS:
                    raise
                logger.warning("event=opening_again reason=%r", str(error))
        raise AssertionError

    def again(
        self, before: LeasedLoad, uris: tuple[str, ...], cancelled: Cancelled, *, hold: bool
    ) -> LeasedLoad:
        """Open the same shards in another load, which wants no block yet.

        Args:
            before: the load that opened the shards.
            uris: the shards' names.
            cancelled: asked now and then; the wait ends when it returns True.
            hold: whether whole shards are to stay resident.

        Raises:
            SourceChanged: a shard has changed since.
            StreamerError: as in `first`.
        """
        named = None if self._files else uris
        options = msgspec.structs.replace(self._request.options, hold=hold)
        request = msgspec.structs.replace(
            self._request, files=named, pattern=None, want="none", options=options
        )
        load = self._opened(request, cancelled)
        for was, now in zip(before.shards, load.shards, strict=True):
            if (was.identity, was.size_bytes) != (now.identity, now.size_bytes):
                load.close()
                raise SourceChanged(
                    f"{was.uri} changed while it was being loaded; load it again from the start"
                )
        return load

    def bring_in(self) -> None:
        """Make the daemon bring the promised files in; safe in finalizers."""
        if self._promised is None:
            return
        connection, transfer = self._promised
        source = self._request.source
        connection.tell(lambda number: Prefetch(number, source, transfer))
        self.cancel_promise()

    def cancel_promise(self) -> None:
        """Let the daemon close the promised files; safe in finalizers, idempotent."""
        if self._promised is not None:
            connection, transfer = self._promised
            self._promised = None
            connection.drop(transfer)

    def _opened(self, request: Open, cancelled: Cancelled, *, promised: bool = False) -> LeasedLoad:
        """Open with the present credentials, or with newer ones if these have just expired."""
        environment = self.access.environment()
        try:
            load = self._asked(request, environment, cancelled, promised=promised)
        except CredentialsExpired:
            newer = self.access.environment()
            if newer == environment:
                raise
            environment = newer
            load = self._asked(request, environment, cancelled, promised=promised)
        self._newest = load
        self._renewal.sent(environment)
        return load

    def _asked(
        self,
        request: Open,
        environment: dict[str, str],
        cancelled: Cancelled,
        *,
        promised: bool = False,
    ) -> LeasedLoad:
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
            load = LeasedLoad(connection, build, cancelled, self._renewal.want)
            opened = True
        except CancelledError as error:
            raise FeedClosed from error
        finally:
            if opened and promised and transfer:
                self._promised = connection, transfer
            else:
                connection.drop(transfer)
        return load

    def _renew(self, environment: dict[str, str]) -> None:
        """Send a newer environment to the newest load; called in the renewal's thread."""
        if self._newest is not None:
            self._newest.renew(environment)

    def close(self) -> None:
        """Stop renewing credentials. Does not wait; idempotent."""
        self._renewal.close()
        self.cancel_promise()
