"""The listening socket of the fleet: accepts peers within bounds, a thread for each connection.

With TLS, a peer without a certificate of the fleet's authority gets no answer: the handshake, with
a time limit of its own, comes first. Runs in the fleet's process.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections import Counter
from typing import Final

from streamer_client.contract.errors import ConfigError
from streamerd.fleet.serve.connection import Connection, Desk
from streamerd.settings.fleet import split_address

logger = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 512
MOST_OF_ONE: Final = 192
"""The most connections from one IP address, so that one peer cannot take all. A node asks with at
most 64 threads at once (`fetch/`), and several nodes may share an address."""
HANDSHAKE_S: Final = 5.0
_BACKLOG: Final = 256
_STACK_BYTES: Final = 512 << 10


class Server:
    """Serves peers.

    Args:
        listen: address and port; port 0 lets the kernel choose one.
        context: the context for TLS; None for plain connections.
        desk: the parts that all connections share.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(self, listen: str, context: ssl.SSLContext | None, desk: Desk) -> None:
        self._context = context
        self._desk = desk
        self._lock = threading.Lock()
        self._of: Counter[str] = Counter()
        self._closed = False
        host, port = split_address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server(
                (host, port), family=family, backlog=_BACKLOG, reuse_port=False
            )
        except OSError as error:
            raise ConfigError(
                f"fleet_listen is {listen}, and nobody can listen there: {error}; choose an "
                "address of this machine and a free port"
            ) from error
        threading.stack_size(_STACK_BYTES)
        self._accepting = threading.Thread(target=self._accept, name="accepting", daemon=True)

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._of.total()

    def start(self) -> None:
        """Start the thread that accepts connections."""
        self._accepting.start()

    def close(self) -> None:
        """Stop accepting; open connections go on and end with the process."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)  # this wakes the accepting thread
        self._listening.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                connected, address = self._listening.accept()
            except OSError as error:
                if self._closed:
                    return
                # Too many open files, or the peer is gone already: the next one may succeed.
                logger.warning("event=fleet_not_accepted error=%s", error)
                threading.Event().wait(0.1)
                continue
            self._admit(connected, str(address[0]))

    def _admit(self, connected: socket.socket, host: str) -> None:
        with self._lock:
            full = self._of.total() >= MOST_CONNECTIONS or self._of[host] >= MOST_OF_ONE
            self._of[host] += not full
        if full:
            connected.close()
            return
        try:
            threading.Thread(target=self._serve, args=(connected, host), daemon=True).start()
        except RuntimeError as error:  # no further thread can be started
            logger.warning("event=fleet_not_accepted error=%s", error)
            connected.close()
            self._ended(host)

    def _serve(self, connected: socket.socket, host: str) -> None:
        try:
            with connected:
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connected.settimeout(HANDSHAKE_S)
                if self._context is None:
                    Connection(connected, self._desk).serve()
                    return
                with self._context.wrap_socket(connected, server_side=True) as spoken:
                    Connection(spoken, self._desk).serve()
        except OSError as error:
            logger.debug("event=fleet_connection_ended error=%s", error)
        finally:
            self._ended(host)

    def _ended(self, host: str) -> None:
        with self._lock:
            self._of[host] -= 1
            if not self._of[host]:
                del self._of[host]
