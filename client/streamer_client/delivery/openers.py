"""Opening feeds for a client: through the daemon, in this process, or by whichever serves.

Owns what each kind of opener needs: opened files, access to the source, sizes.
`connecting/finding.py` finds a daemon. Runs in the caller's thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from streamer_client.connecting.link import Link
from streamer_client.connecting.open_request import OpenRequest
from streamer_client.connecting.source_access import SourceAccesses, open_files
from streamer_client.contract.errors import (
    DaemonUnavailable,
    MemoryLimitError,
    RequestRefused,
    SourceForbidden,
    SourceNotFound,
    StreamerError,
)
from streamer_client.contract.messages import Copied, Open
from streamer_client.contract.uris import is_remote
from streamer_client.copy.feed import Copies, Feed
from streamer_client.delivery.concurrency import chunk_bytes
from streamer_client.delivery.daemon_feed import DaemonFeed
from streamer_client.delivery.direct_feed import open_directly
from streamer_client.storage.registry import public_uri

logger = logging.getLogger(__name__)

_READ_OURSELVES: Final = (
    DaemonUnavailable,
    MemoryLimitError,
    RequestRefused,
    SourceForbidden,
    SourceNotFound,
)
"""Refusals of a daemon after which this process may still read the files itself. The daemon runs as
another user, in another mount namespace, or has no room."""


class Opener(Protocol):
    """Opens a request in the way of the client's mode."""

    def feed(self, request: OpenRequest) -> Feed: ...
    def tell_copied(self, copies: Copies) -> None: ...
    def close(self) -> None: ...


class DaemonOpener:
    """Opens sources through the daemon.

    Args:
        link: the way to the daemon.
        environ: variables that name credentials and endpoints; by default this process's.
        without_memory: whether a load goes on in this process when the daemon has no memory for it.
    """

    def __init__(
        self,
        link: Link,
        environ: Mapping[str, str] = os.environ,
        *,
        without_memory: bool = False,
    ) -> None:
        self._link = link
        self._without_memory = without_memory
        self._environ = environ
        self._accesses = SourceAccesses()

    def feed(self, request: OpenRequest) -> Feed:
        public = _public(request)
        first = _first_uri(request)
        access = self._accesses.of(first, self._environ)
        local = not is_remote(first)
        files = open_files(request.source, request.pattern, request.files) if local else ()
        try:
            return DaemonFeed(
                self._link,
                Open(
                    request_id=0,
                    load=0,
                    source=public.source,
                    files=None if local else public.files,
                    pattern=None if local else request.pattern,
                    options=request.options,
                ),
                access,
                files,
                page_cache=request.page_cache,
                without_memory=self._without_memory,
            )
        except BaseException:
            for file in files:
                file.close()
            raise

    def tell_copied(self, copies: Copies) -> None:
        self._link.tell(Copied(sum(copies), copies.page_cache, copies.direct))

    def close(self) -> None:
        self._link.close()


class DirectOpener:
    """Opens sources in this process.

    Args:
        environ: variables that name credentials, endpoints and sizes; by default this process's.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._accesses = SourceAccesses()

    def feed(self, request: OpenRequest) -> Feed:
        uri, public = _first_uri(request), _public(request)
        return open_directly(
            self._accesses.of(uri, self._environ),
            public.source,
            request.pattern,
            public.files,
            options=request.options,
            block_bytes=chunk_bytes(uri, self._environ),
        )

    def tell_copied(self, copies: Copies) -> None:
        """Do nothing, as there is no daemon to tell."""

    def close(self) -> None:
        """Do nothing, as nothing is kept between opens."""


class AutoOpener:
    """Opens sources through the daemon, or in this process if the daemon cannot or will not.

    Args:
        link: the way to the daemon.
        environ: variables that name credentials, endpoints and sizes.
    """

    def __init__(self, link: Link, environ: Mapping[str, str]) -> None:
        self._daemon = DaemonOpener(link, environ, without_memory=True)
        self._direct = DirectOpener(environ)

    def feed(self, request: OpenRequest) -> Feed:
        try:
            return self._daemon.feed(request)
        except _READ_OURSELVES as error:
            try:
                feed = self._direct.feed(request)
            except StreamerError as own_error:
                raise own_error from error
            logger.warning("event=reading_directly source=%r reason=%r", request.source, str(error))
            return feed

    def tell_copied(self, copies: Copies) -> None:
        self._daemon.tell_copied(copies)

    def close(self) -> None:
        self._daemon.close()


def _public(request: OpenRequest) -> OpenRequest:
    """The request without the secrets of its URLs, which travel with the environment."""
    files = None if request.files is None else tuple(map(public_uri, request.files))
    return msgspec.structs.replace(request, source=public_uri(request.source), files=files)


def _first_uri(request: OpenRequest) -> str:
    """The URI that decides how to read all shards, as a source is of one kind."""
    return request.files[0] if request.files else request.source
