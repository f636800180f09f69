"""Requests to a server, its answers, and the interface that each kind of store implements.

Owns the types between the HTTP engine and the stores: `Request`, `Answer`, `Dialect`. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.http.retry import SendAgain, Transient


@dataclass(frozen=True, slots=True)
class Request:
    """One request without a body."""

    method: str
    url: str
    """The URL as sent, absolute and percent-encoded; never shown, as it may hold secrets."""
    about: str
    """The name of the requested object for people; the text of every error begins with it."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer whose body is short enough for memory."""

    status: int
    headers: Mapping[str, str]
    """The headers; their names are in lower case."""
    body: bytes = b""


Verdict = StreamerError | Transient | SendAgain


class Dialect(Protocol):
    """The way to speak to one kind of store. Thread-safe."""

    def prepared(self, request: Request) -> Request:
        """Address and sign the request for sending now. Called anew for each attempt.

        Raises:
            StreamerError: the request cannot be sent at all.
        """
        ...

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        """Judge an answer other than 2xx.

        A `Transient` may pass by itself. After a `SendAgain` the dialect has learned from the
        refusal, and the next `prepared` will be right. An error is final.

        Args:
            request: the request before `prepared`.
            sent: the request that `prepared` made of it.
            answer: the refusal, which has no body if the request was a HEAD.
        """
        ...
