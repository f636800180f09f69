"""A client's connection to its daemon: the present one, or a new one after a loss.

Owns when to connect again. All loads of a client share one link, so that they find a new daemon
together; callers' threads use it.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from streamer_client.connecting.connection import Connection
from streamer_client.contract.errors import DaemonUnavailable
from streamer_client.contract.messages import Message

logger = logging.getLogger(__name__)

RECONNECT_S: Final = 5.0
RETRY_S: Final = 0.1


class Link:
    """A connection to the daemon at one socket, replaced when it is lost.

    Args:
        socket_path: where the daemon listens.
        label: what the daemon's status shows for this client.
        reconnect_s: how long to try again when a connection is lost.
    """

    def __init__(self, socket_path: str, label: str, reconnect_s: float = RECONNECT_S) -> None:
        self.socket_path = socket_path
        self._label = label
        self._reconnect_s = reconnect_s
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connection = Connection.to(socket_path, label)

    @property
    def connection(self) -> Connection:
        """The present connection, or a new one if the last was lost.

        Raises:
            DaemonUnavailable: no daemon answered within `reconnect_s`.
        """
        with self._lock:
            if not self._connection.alive and not self._closing.is_set():
                self._connection = self._reconnected()
            return self._connection

    def tell(self, message: Message) -> None:
        """Send a message that may be lost, without connecting again and without waiting."""
        self._connection.send(message)

    def _reconnected(self) -> Connection:
        self._connection.refuse_after_fork()
        deadline = time.monotonic() + self._reconnect_s
        while True:
            try:
                connection = Connection.to(self.socket_path, self._label)
            except DaemonUnavailable:
                if time.monotonic() >= deadline or self._closing.wait(RETRY_S):
                    raise
            else:
                logger.info("event=reconnected socket=%s", self.socket_path)
                return connection

    def close(self) -> None:
        """Leave the daemon, or let the last lease do so. Idempotent."""
        if not self._closing.is_set():
            self._closing.set()
            self._connection.close()

    def abandon(self) -> None:
        """Do what `close` does without waiting, so that finalizers may call this."""
        if not self._closing.is_set():
            self._closing.set()
            self._connection.abandon()
