"""Kept-alive connections, shared by all threads of a process that connect with equal settings.

Thread-safe. Idle connections are bounded in number and age; `close_idle` closes all of them.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.transport.connection import HttpConnection, Sent
from streamer_client.storage.http.transport.deadline import Deadline
from streamer_client.storage.http.urls import Origin, origin_of

MAX_IDLE: Final = 64
"""The most idle connections of one pool, to all its origins together."""

MAX_IDLE_S: Final = 30.0
"""How long a connection may be idle: stores close idle ones after some 20 to 60 s."""

MAX_POOLS: Final = 16

_STALE: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The errors of a connection that the server had closed while it was idle."""


class ConnectionPool:
    """Connections made with one set of settings."""

    def __init__(
        self,
        settings: HttpSettings,
        *,
        make: Callable[[Origin, HttpSettings], HttpConnection] = HttpConnection,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[tuple[float, HttpConnection]]] = {}
        self._reached: set[Origin] = set()

    def send(self, request: Request, size_bytes: int = 0) -> Sent:
        """Send a request over an idle or a new connection; a stale one is replaced at once.

        Args:
            request: the prepared request.
            size_bytes: size of the wanted body; the larger it is, the longer the answer may take.

        Raises:
            OSError, http.client.HTTPException: `faults.py` says what they mean.
            ConfigError: the URL or the certificates cannot be used.
            SourceForbidden: the URL leads to a metadata service; nothing was sent to it.
        """
        deadline = Deadline(self.settings.attempt_s(size_bytes), self._clock)
        origin = origin_of(request.url)
        connection = self._take(origin) or self._make(origin, self.settings)
        while True:
            try:
                exchange = connection.exchange(request, deadline)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if not (connection.used and isinstance(error, _STALE)):
                    raise
                connection = self._make(origin, self.settings)
            except BaseException:
                connection.close()
                raise
            else:
                self._reached.add(origin)
                return Sent(exchange, connection, self.give_back)

    def reached(self, url: str) -> bool:
        """Whether this origin ever answered; if so, its address is not the cause of a failure."""
        return origin_of(url) in self._reached

    def give_back(self, connection: HttpConnection) -> None:
        """Put a connection back for the next request, within the bounds."""
        now = self._clock()
        with self._lock:
            idle = self._idle.setdefault(connection.origin, [])
            surplus = [old for since, old in idle if now - since > MAX_IDLE_S]
            idle[:] = [entry for entry in idle if now - entry[0] <= MAX_IDLE_S]
            if sum(map(len, self._idle.values())) < MAX_IDLE:
                idle.append((now, connection))
            else:
                surplus.append(connection)
        for old in surplus:
            old.close()

    def close_idle(self) -> None:
        """Close every connection that is not in use. The pool stays usable."""
        with self._lock:
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for _, connection in connections:
                connection.close()

    def _take(self, origin: Origin) -> HttpConnection | None:
        """The connection used last, if it is still open."""
        while True:
            with self._lock:
                idle = self._idle.get(origin)
                if not idle:
                    return None
                since, connection = idle.pop()
            if self._clock() - since <= MAX_IDLE_S and connection.alive():
                return connection
            connection.close()


_pools: Final[OrderedDict[HttpSettings, ConnectionPool]] = OrderedDict()
_pools_lock: Final = threading.Lock()


def pool_for(settings: HttpSettings) -> ConnectionPool:
    """The process's pool for these settings; pools that were not used lately are dropped."""
    with _pools_lock:
        pool = _pools.pop(settings, None) or ConnectionPool(settings)
        _pools[settings] = pool
        dropped = _pools.popitem(last=False)[1] if len(_pools) > MAX_POOLS else None
    if dropped:
        dropped.close_idle()
    return pool


def close_idle() -> None:
    """Close the idle connections of all the process's pools, which stay usable."""
    with _pools_lock:
        pools = list(_pools.values())
    for pool in pools:
        pool.close_idle()
