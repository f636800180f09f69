"""What is asked of a server and what it answers, and what a kind of store adds to that.

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
    """Absolute and percent-encoded, as it is sent; may hold secrets, so never shown."""
    about: str
    """What a person calls the thing asked for; every error's text begins with it."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer with a body short enough to hold."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""


Verdict = StreamerError | Transient | SendAgain


class Dialect(Protocol):
    """How one kind of store is spoken to. Thread-safe."""

    def prepared(self, request: Request) -> Request:
        """The request as it is sent now: addressed, signed. Asked anew for each attempt.

        Raises:
            StreamerError: it cannot be sent at all.
        """
        ...

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        """What an answer other than 2xx means.

        A `Transient` may pass by itself. After a `SendAgain` the dialect has learned from the
        refusal, and the next `prepared` will be right. An error is final.

        Args:
            request: as it was asked for.
            sent: as `prepared` made it.
            answer: the refusal; without a body if it was a HEAD.
        """
        ...
