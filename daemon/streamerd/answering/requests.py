"""Finds the handler of a client's message: one table, from types of messages to handlers.

This module owns the table, and answers a request that fails with `Failed`; such a request changes
nothing. The module that registers a handler says what its message means. Runs in the daemon's loop,
where the control socket calls it for every message.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.messages import ClientMessage, Failed, Message
from streamerd.control.sessions import Session
from streamerd.service.answers import Send

logger = logging.getLogger(__name__)

NO_REQUEST: Final = -1
"""Stands for the request's number if the message that failed has none."""

M = TypeVar("M", bound=Message)


class Replies:
    """Sends the answers of handlers, at once or later.

    Args:
        send: sends a message to a session, by its name.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.refused: Counter[str] = Counter()
        """Number of refused requests, by the error's code."""

    def send(self, session: Session, message: Message) -> None:
        """Send a message to a client."""
        self._send(session.name, message)

    def refuse(self, session: Session, request: Message, error: StreamerError) -> None:
        """Answer a request with the error that it failed with, and count the error."""
        logger.warning(
            "event=request_refused request=%s pid=%d uid=%d label=%r code=%s error=%s",
            type(request).__name__, session.pid, session.uid, session.label, error.code, error,
        )  # fmt: skip
        self.refused[error.code] += 1
        request_id = getattr(request, "request_id", NO_REQUEST)
        self.send(session, Failed(request_id, error.code, str(error)))

    def attempt(self, session: Session, request: Message, act: Callable[[], None]) -> None:
        """Call `act` for a request; if it raises a `StreamerError`, answer with that."""
        try:
            act()
        except StreamerError as error:
            self.refuse(session, request, error)


class Requests:
    """The table of handlers.

    Args:
        replies: answers requests that fail.
        decide: lets the core decide on the events that wait.
    """

    def __init__(self, replies: Replies, decide: Callable[[], None]) -> None:
        self._replies = replies
        self._decide = decide
        # `Any` is safe: the types of `on` ensure that a handler takes the type it is found by.
        self._handlers: dict[type[Message], Callable[[Session, Any], None]] = {}
        self._by_state: set[type[Message]] = set()

    @property
    def handled(self) -> frozenset[type[Message]]:
        """The types of messages that have a handler."""
        return frozenset(self._handlers)

    def on(
        self, kind: type[M], handler: Callable[[Session, M], None], *, by_state: bool = False
    ) -> None:
        """Register the one handler of a type of message.

        Args:
            kind: the type.
            handler: called with the session and the message; a `StreamerError` that it raises is
                the answer.
            by_state: whether the handler depends on the core's state, so that the core must decide
                on earlier events first.
        """
        assert kind not in self._handlers, f"{kind.__name__} has two handlers"
        self._handlers[kind] = handler
        if by_state:
            self._by_state.add(kind)

    def receive(self, session: Session, message: ClientMessage) -> None:
        """Call the handler of one message."""
        kind = type(message)
        try:
            if kind in self._by_state:
                self._decide()
            self._handlers[kind](session, message)
        except StreamerError as error:
            self._replies.refuse(session, message, error)
