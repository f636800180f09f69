"""Requests about the daemon itself: status, configuration, prefetch, cache control, verification.

Owns what each request says, the files that travel with it, and what its answer must be. A client's
`admin` and streamerctl make their requests here. Leaves the connection to `link.py` and
`connection.py`. Blocks the caller's thread, and needs no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from streamer_client.connecting.connection import Connection
from streamer_client.connecting.source_access import SourceAccesses, open_files
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    SourceError,
    SourceNotFound,
)
from streamer_client.contract.messages import (
    Accepted,
    Config,
    Done,
    Evict,
    GetConfig,
    GetReport,
    GetStatus,
    Json,
    Message,
    Pin,
    Prefetch,
    Report,
    Status,
    Unpin,
    Verified,
    Verify,
    Verifying,
)
from streamer_client.contract.uris import is_remote
from streamer_client.storage.local import local_path
from streamer_client.storage.registry import public_uri

ANSWER_TIMEOUT_S: Final = 30.0
"""Time limit for requests that the daemon answers at once. Others have none while it lives."""

A = TypeVar("A", bound=Message)


class Way(Protocol):
    """A way to a daemon: one connection, or a new one whenever the last was lost."""

    @property
    def socket_path(self) -> str: ...
    @property
    def connection(self) -> Connection: ...


class Prefetching(NamedTuple):
    """A prefetch that the daemon has begun."""

    ids: tuple[str, ...]
    """The ids of its shards, as `status` shows them."""
    total_bytes: int


class Admin:
    """Requests to a daemon; each raises the daemon's refusal as its typed error.

    Sources are directories, files or URIs, named as for `Client.open`.
    """

    def __init__(self, way: Way) -> None:
        self._link = way
        self._accesses = SourceAccesses()

    @property
    def socket(self) -> str:
        """The daemon's control socket."""
        return self._link.socket_path

    @staticmethod
    def none() -> Admin:
        raise DaemonUnavailable("this client reads without a daemon; there is none to ask")

    def status(self) -> Json:
        """The document of `streamerctl status --json`; `contract.status.parse_status` types it."""
        return self._asked(GetStatus, Status, timeout_s=ANSWER_TIMEOUT_S).body

    def config(self) -> Json:
        """The daemon's settings: each name with its `{"value", "origin"}`."""
        return self._asked(GetConfig, Config, timeout_s=ANSWER_TIMEOUT_S).body

    def report(self) -> Json:
        """The figures of the last loads, as a JSON document."""
        return self._asked(GetReport, Report, timeout_s=ANSWER_TIMEOUT_S).body

    def prefetch(
        self, source: str, pattern: str | None = None, *, pin: bool = False, limit_bytes: int = -1
    ) -> Prefetching:
        """Have the daemon bring a source in, on its own account, and do not wait for the end.

        Args:
            source: what to bring in.
            pattern: a glob on file names directly under it.
            pin: whether the source stays in memory until it is unpinned.
            limit_bytes: how many bytes to bring in, in reading order; -1 for all.

        Raises:
            SourceError: a file cannot be opened, or the store refuses.
        """
        named, environment = named_source(source), self._accesses.of(source).environment()
        with handed_over(self._link.connection, (source,), pattern) as transfer:
            accepted = self._asked(
                lambda number: Prefetch(
                    number, named, transfer, pattern, pin, limit_bytes, environment
                ),
                Accepted,
            )
        return Prefetching(accepted.ids, accepted.total_bytes)

    def evict(self, *sources: str) -> str:
        """Drop sources, or all unused ones when none is named; tell what was done."""
        named = tuple(map(named_source, sources))
        with handed_over(self._link.connection, sources, optional=True) as transfer:
            return self._asked(lambda number: Evict(number, named, transfer), Done).detail

    def pin(self, source: str) -> str:
        """Keep a source in memory until it is unpinned; tell what was done."""
        return self._pinned(source, Pin)

    def unpin(self, source: str) -> str:
        """End a pin; tell what was done."""
        return self._pinned(source, Unpin)

    def _pinned(self, source: str, kind: type[Pin | Unpin]) -> str:
        named = named_source(source)
        with handed_over(self._link.connection, (source,), optional=True) as transfer:
            return self._asked(lambda number: kind(number, named, transfer), Done).detail

    def verify(
        self,
        source: str,
        *,
        against_source: bool = False,
        progress: Callable[[Verifying], None] | None = None,
    ) -> Verified:
        """Compare the part of a source that is in memory with its checksums.

        Args:
            source: what to verify.
            against_source: whether the source itself is read again and compared too.
            progress: called in the connection's thread with how far the verification is.
        """
        named = named_source(source)
        environment = self._accesses.of(source).environment() if against_source else {}
        with handed_over(self._link.connection, (source,), optional=True) as transfer:
            return self._asked(
                lambda number: Verify(number, named, transfer, against_source, environment),
                Verified,
                progress=progress,
            )

    def _asked(
        self,
        build: Callable[[int], Message],
        kind: type[A],
        *,
        timeout_s: float | None = None,
        progress: Callable[[Verifying], None] | None = None,
    ) -> A:
        answer = self._link.connection.request(build, timeout_s, progress=progress)
        if not isinstance(answer, kind):
            raise ProtocolMismatch(
                f"the daemon at {self.socket} answered with {type(answer).__name__} where "
                f"{kind.__name__} was due; install the same version of streamerd on both sides"
            )
        return answer


def named_source(source: str) -> str:
    """A source as the daemon may know it by name: absolute, without the secrets of its URL."""
    return public_uri(source) if is_remote(source) else local_path(source)


@contextlib.contextmanager
def handed_over(
    connection: Connection,
    sources: Sequence[str],
    pattern: str | None = None,
    *,
    optional: bool = False,
) -> Iterator[int]:
    """Hand over the files of local sources for the time of a request; yield the transfer's number.

    Args:
        connection: connection to the daemon.
        sources: the sources; objects among them need no files and are left out.
        pattern: which files of a directory are meant.
        optional: whether to leave out a source that cannot be opened, since its name is known.

    Raises:
        SourceError: a file cannot be opened.
        SourceNotFound: the daemon holds nothing of the sources, as far as this user can tell.
        StreamerError: the daemon refuses the files.
    """
    transfer = _transfer(connection, sources, pattern, optional=optional)
    try:
        yield transfer
    except SourceNotFound as error:
        if transfer or all(map(is_remote, sources)):
            raise
        raise SourceNotFound(
            f"{error}; what another user loaded is found through its files, and this user can "
            "open none of them"
        ) from error
    finally:
        connection.drop(transfer)


def _transfer(
    connection: Connection, sources: Sequence[str], pattern: str | None, *, optional: bool
) -> int:
    """Hand over the files of the local ones among sources; 0 if none is local."""
    unopened = (SourceError,) if optional else ()
    with contextlib.ExitStack() as opened:
        files = []
        for source in sources:
            if is_remote(source):
                continue
            with contextlib.suppress(*unopened):
                for file in open_files(source, pattern, None):
                    opened.callback(file.close)
                    files.append(file)
        return connection.hand_over(files) if files else 0
