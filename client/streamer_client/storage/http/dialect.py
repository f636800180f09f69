"""What a kind of store adds to HTTP."""

from __future__ import annotations

from typing import Protocol

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.http.messages import Answer, Request
from streamer_client.storage.http.refusals import Told, refusal
from streamer_client.storage.http.retry import SendAgain, Transient

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

        `Transient` may pass; `SendAgain` was understood, and the next `prepared` will be right; an
        error is final.

        Args:
            request: as it was asked for.
            sent: as `prepared` made it.
            answer: the refusal; without a body if it was a HEAD.
        """
        ...


class PlainDialect:
    """No signing, and statuses mean what HTTP says."""

    def prepared(self, request: Request) -> Request:
        return request

    def refusal(self, request: Request, sent: Request, answer: Answer) -> Verdict:
        del request
        return refusal(sent, answer, Told())
