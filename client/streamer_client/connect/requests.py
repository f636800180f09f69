"""Requests about the daemon itself: status, configuration, prefetch, cache control. No torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from streamer_client.connect.connection import Connection
from streamer_client.connect.descriptor_room import open_files
from streamer_client.connect.link import Link
from streamer_client.connect.source_access import SourceAccesses
from streamer_client.contract.errors import DaemonUnavailable, ProtocolMismatch, SourceError
from streamer_client.contract.messages import (
    Accepted,
    Config,
    DaemonMessage,
    Done,
    Evict,
    GetConfig,
    GetStatus,
    Json,
    Pin,
    Prefetch,
    Status,
    Unpin,
)
from streamer_client.contract.uris import is_remote
from streamer_client.storage.local import local_path
from streamer_client.storage.registry import public_uri

ANSWER_TIMEOUT_S: Final = 30.0

A = TypeVar("A", bound=DaemonMessage)


class Admin:
    """Thin requests over a client's link; each raises the daemon's refusal as its typed error."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._accesses = SourceAccesses()

    @property
    def socket(self) -> str:
        """The daemon's control socket."""
        return self._link.socket_path

    @staticmethod
    def none() -> Admin:
        raise DaemonUnavailable("this client reads without a daemon; there is none to ask")

    def status(self) -> Json:
        """The document of `streamerctl status --json`."""
        answer = self._link.connection.request(GetStatus, ANSWER_TIMEOUT_S)
        return _expect(Status, answer).body

    def config(self) -> Json:
        answer = self._link.connection.request(GetConfig, ANSWER_TIMEOUT_S)
        return _expect(Config, answer).body

    def prefetch(
        self, source: str, pattern: str | None = None, *, pin: bool = False, limit_bytes: int = -1
    ) -> tuple[tuple[str, ...], int]:
        """Have a source brought in; returns its shards' ids and their size, and does not wait."""
        environment = self._accesses.of(source).variables()
        with handed_over(self._link.connection, (source,), pattern) as transfer:
            answer = self._link.connection.request(
                lambda number: Prefetch(
                    number, public_uri(source), transfer, pattern, pin, limit_bytes, environment
                )
            )
        accepted = _expect(Accepted, answer)
        return accepted.ids, accepted.total_bytes

    def evict(self, *sources: str) -> str:
        """Drop sources, or everything that nobody uses when none is named."""
        named = tuple(map(named_source, sources))
        with handed_over(self._link.connection, sources, optional=True) as transfer:
            answer = self._link.connection.request(lambda number: Evict(number, named, transfer))
        return _expect(Done, answer).detail

    def pin(self, source: str) -> None:
        self._keep(source, Pin)

    def unpin(self, source: str) -> None:
        self._keep(source, Unpin)

    def _keep(self, source: str, kind: type[Pin | Unpin]) -> None:
        with handed_over(self._link.connection, (source,), optional=True) as transfer:
            answer = self._link.connection.request(
                lambda number: kind(number, named_source(source), transfer)
            )
        _expect(Done, answer)


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
    """Hand the files of local sources over for the time of a request; gives the transfer's number.

    Args:
        connection: to the daemon.
        sources: those that are objects are left out, as they are named.
        pattern: which files of a directory.
        optional: leave out what cannot be opened: it is known by its name then.

    Raises:
        SourceError: a file cannot be opened.
        StreamerError: the daemon refuses them.
    """
    with contextlib.ExitStack() as opened:
        files = []
        for source in sources:
            if is_remote(source):
                continue
            with contextlib.suppress(*((SourceError,) if optional else ())):
                for file in open_files(source, pattern, None):
                    opened.callback(file.close)
                    files.append(file)
        transfer = connection.hand_over(files) if files else 0
        opened.close()  # they are the daemon's now
        try:
            yield transfer
        finally:
            connection.drop(transfer)


def _expect(kind: type[A], answer: DaemonMessage) -> A:
    if not isinstance(answer, kind):
        raise ProtocolMismatch(
            f"the daemon answered with {type(answer).__name__} where {kind.__name__} was due; "
            "install the same version of streamerd on both sides"
        )
    return answer
