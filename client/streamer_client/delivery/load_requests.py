"""What one source's reader asks of a daemon: to open it, again too, and to bring it in later.

Owns what is asked and with which credentials, and has the newest load's credentials renewed. When
to ask is decided by `pass_state.py`; the threads that call are those of `daemon_feed.py`.
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
"""Daemons that may die one after the other before a load was opened."""

Cancelled = Callable[[], bool]


class LoadRequests:
    """The requests for one source.

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
        self._newest: LeasedLoad | None = None
        self._renewal = Renewal(access, self._renew)

    def first(
        self, cancelled: Cancelled, *, wants_all: bool = True, promised: bool = False
    ) -> LeasedLoad:
        """Open; ask the next daemon where one died before it answered, as it may while we wait.

        Args:
            cancelled: asked now and then.
            wants_all: whether the daemon is to bring everything in, in file order.
            promised: whether the daemon keeps the files open for `bring_in`.

        Raises:
            FeedClosed: it was cancelled.
            StreamerError: no daemon, or it refuses.
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
        """Open the same shards in another load, that wants nothing yet.

        Args:
            before: the load that they were opened with.
            uris: their names.
            cancelled: asked now and then.
            hold: whether whole shards are to stay resident.

        Raises:
            SourceChanged: a shard is not what it was.
            StreamerError: as `first`.
        """
        named = None if self._files else uris
        request = msgspec.structs.replace(
            self._request, files=named, pattern=None, want="none", hold=hold
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
        """Have the daemon bring the promised files in; safe in finalizers."""
        if self._promised is None:
            return
        connection, transfer = self._promised
        source = self._request.source
        connection.tell(lambda number: Prefetch(number, source, transfer))
        self.cancel_promise()

    def cancel_promise(self) -> None:
        """The daemon may close the promised files; safe in finalizers, idempotent."""
        if self._promised is not None:
            connection, transfer = self._promised
            self._promised = None
            connection.drop(transfer)

    def _opened(self, request: Open, cancelled: Cancelled, *, promised: bool = False) -> LeasedLoad:
        """Open with credentials as they are now; with newer ones where those just expired."""
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
        """Called in the renewal's thread."""
        if self._newest is not None:
            self._newest.renew(environment)

    def close(self) -> None:
        """Renew nothing any more. Does not wait; idempotent."""
        self._renewal.close()
        self.cancel_promise()
