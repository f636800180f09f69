"""Requests about the daemon itself: status, configuration, prefetch, cache control. No torch."""

from __future__ import annotations

from typing import Final, TypeVar

from streamer_client.contract.errors import DaemonUnavailable, ProtocolMismatch
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
from streamer_client.link import Link
from streamer_client.source_access import SourceAccesses
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
        """Have a source brought in; returns its shards and their size, and does not wait."""
        environment = self._accesses.of(source).variables()
        answer = self._link.connection.request(
            lambda number: Prefetch(
                number, public_uri(source), pattern, pin, limit_bytes, environment
            )
        )
        accepted = _expect(Accepted, answer)
        return accepted.uris, accepted.total_bytes

    def evict(self, *sources: str) -> str:
        """Drop sources, or everything that nobody uses when none is named."""
        answer = self._link.connection.request(
            lambda number: Evict(number, tuple(map(public_uri, sources)))
        )
        return _expect(Done, answer).detail

    def pin(self, source: str) -> None:
        _expect(Done, self._link.connection.request(lambda number: Pin(number, public_uri(source))))

    def unpin(self, source: str) -> None:
        _expect(
            Done, self._link.connection.request(lambda number: Unpin(number, public_uri(source)))
        )


def _expect(kind: type[A], answer: DaemonMessage) -> A:
    if not isinstance(answer, kind):
        raise ProtocolMismatch(
            f"the daemon answered with {type(answer).__name__} where {kind.__name__} was due; "
            "install the same version of streamerd on both sides"
        )
    return answer
