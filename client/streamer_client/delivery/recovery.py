"""Opening a load's source in another way: with the next daemon, or in this process.

Owns both ways to open exactly the shards that the load had. `pass_state.py` decides which is
needed; the copying thread that noticed the loss runs it for all.
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
    """The other ways to open the shards of one load.

    Args:
        link: the way to a daemon.
        request: the source that was opened, without numbers and environment.
        access: the access to the source.
        files: the opened files of a local source.
        requests: makes requests to daemons.
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
        """Open the same shards in a load that wants no block yet.

        Raises:
            SourceChanged: a shard has changed since.
            StreamerError: there is no daemon, or the daemon refuses.
        """
        load = self._requests.again(lost, uris, cancelled, hold=self._request.options.hold)
        logger.warning("event=load_resumed socket=%s", self._link.socket_path)
        return load

    def in_this_process(
        self, lost: LeasedLoad, uris: tuple[str, ...], why: StreamerError | None
    ) -> DirectFeed:
        """Open the same shards for reading in this process.

        Args:
            lost: the load whose shards are wanted.
            uris: the shards' names.
            why: the daemon's failure, for the log; None if reading directly is merely faster.

        Raises:
            SourceChanged: a shard has changed since.
            StreamerError: the source cannot be read.
        """
        if why is not None:
            logger.warning(
                "event=reading_directly source=%r reason=%r", self._request.source, str(why)
            )
        if self._files:
            return read_files(
                self._files,
                options=self._request.options,
                block_bytes=lost.block_bytes,
            )
        return open_directly(
            self._access,
            self._request.source,
            None,
            uris,
            options=self._request.options,
            block_bytes=lost.block_bytes,
            expected=[(one.uri, one.identity, one.size_bytes) for one in lost.shards],
        )
