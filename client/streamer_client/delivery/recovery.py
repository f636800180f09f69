"""Opening a load's source another way: with the next daemon, or in this process.

Owns both openings, of exactly the shards that the load had. When one is wanted is decided by
`pass_state.py`; whichever copying thread met the loss runs it, for all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from streamer_client.connecting.link import Link
from streamer_client.connecting.source_access import SourceAccess
from streamer_client.contract.errors import StreamerError
from streamer_client.contract.messages import Open
from streamer_client.delivery.direct_feed import DirectFeed, open_directly, read_files
from streamer_client.delivery.leased_load import LeasedLoad
from streamer_client.delivery.load_requests import LoadRequests
from streamer_client.storage.local_files import LocalFile

logger = logging.getLogger(__name__)


class Recovery:
    """The other ways to the shards of one load.

    Args:
        link: the way to a daemon.
        request: what was opened, without numbers and environment.
        access: the way into the source.
        files: its files, opened, where it is local.
        requests: what is asked of daemons.
    """

    def __init__(
        self,
        link: Link,
        request: Open,
        access: SourceAccess,
        files: Sequence[LocalFile],
        requests: LoadRequests,
    ) -> None:
        self._link = link
        self._request = request
        self._access = access
        self._files = files
        self._requests = requests

    def with_next_daemon(
        self, lost: LeasedLoad, uris: tuple[str, ...], cancelled: Callable[[], bool]
    ) -> LeasedLoad:
        """The same shards in a load that wants nothing yet.

        Raises:
            SourceChanged: a shard is not what it was.
            StreamerError: no daemon, or it refuses.
        """
        load = self._requests.again(lost, uris, cancelled, hold=self._request.hold)
        logger.warning("event=load_resumed socket=%s", self._link.socket_path)
        return load

    def in_this_process(
        self, lost: LeasedLoad, uris: tuple[str, ...], why: StreamerError | None
    ) -> DirectFeed:
        """A reader of the same shards.

        Args:
            lost: the load whose shards are wanted.
            uris: their names.
            why: what the daemon failed with, for the log; None where reading directly is faster.

        Raises:
            SourceChanged: a shard is not what it was.
            StreamerError: the source cannot be read.
        """
        if why is not None:
            logger.warning(
                "event=reading_directly source=%r reason=%r", self._request.source, str(why)
            )
        if self._files:
            return read_files(
                self._files,
                memory_limit=self._request.memory_limit,
                concurrency=self._request.concurrency,
                block_bytes=lost.block_bytes,
            )
        return open_directly(
            self._access,
            self._request.source,
            None,
            uris,
            memory_limit=self._request.memory_limit,
            concurrency=self._request.concurrency,
            block_bytes=lost.block_bytes,
            expected=[(one.uri, one.identity, one.size_bytes) for one in lost.shards],
        )
