"""Handles messages about the connection and the daemon: greeting, heartbeats, status, settings.

This module owns no state. Runs in the daemon's loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from streamer_client.contract import messages
from streamer_client.contract.errors import ProtocolMismatch
from streamer_client.contract.limits import MAX_LABEL_CHARACTERS
from streamer_client.contract.printable import printable
from streamerd import __version__
from streamerd.answering.requests import Replies, Requests
from streamerd.control.sessions import Session, Sessions, connection_level

logger = logging.getLogger(__name__)

Body = Callable[[], dict[str, object]]
"""Makes the body of an answer."""


class Conversation:
    """Handles messages about the connection and the daemon.

    Args:
        replies: sends answers.
        sessions: the connected clients.
        heartbeat_s: how often clients send a heartbeat.
        status: makes the body of `Status`.
        config: makes the body of `Config`.
        report: makes the body of `Report`.
    """

    def __init__(
        self,
        replies: Replies,
        sessions: Sessions,
        heartbeat_s: float,
        status: Body,
        config: Body,
        report: Body,
    ) -> None:
        self._replies = replies
        self._sessions = sessions
        self._heartbeat_s = heartbeat_s
        self._status = status
        self._config = config
        self._report = report

    def register(self, requests: Requests) -> None:
        """Register the handlers of these messages in the table."""
        requests.on(messages.Hello, self._hello)
        requests.on(messages.Heartbeat, self._replies.send)  # a heartbeat is sent back as it is
        requests.on(messages.Goodbye, self._goodbye)
        requests.on(messages.Copied, self._copied)
        requests.on(messages.GetStatus, self._tell_status, by_state=True)
        requests.on(messages.GetConfig, self._tell_config)
        requests.on(messages.GetReport, self._tell_report, by_state=True)

    def _hello(self, session: Session, message: messages.Hello) -> None:
        if message.protocol != messages.PROTOCOL:
            raise ProtocolMismatch(
                f"client {printable(message.version, 40)} speaks protocol {message.protocol}, this "
                f"daemon {__version__} speaks {messages.PROTOCOL}; install the same version on "
                "both sides"
            )
        label = printable(message.label, MAX_LABEL_CHARACTERS)
        self._sessions.greet(session, message.pid, label, message.world)
        logger.log(
            connection_level(label),
            "event=client_connected pid=%d uid=%d label=%r",
            session.pid,
            session.uid,
            label,
        )
        welcome = messages.Welcome(
            message.request_id, messages.PROTOCOL, self._heartbeat_s, session.proof
        )
        self._replies.send(session, welcome)

    def _goodbye(self, session: Session, _message: messages.Goodbye) -> None:
        self._sessions.end(session, "said goodbye")

    def _copied(self, _session: Session, message: messages.Copied) -> None:
        self._sessions.copied.add(message)

    def _tell_status(self, session: Session, message: messages.GetStatus) -> None:
        self._replies.send(session, messages.Status(message.request_id, self._status()))

    def _tell_config(self, session: Session, message: messages.GetConfig) -> None:
        self._replies.send(session, messages.Config(message.request_id, self._config()))

    def _tell_report(self, session: Session, message: messages.GetReport) -> None:
        self._replies.send(session, messages.Report(message.request_id, self._report()))
