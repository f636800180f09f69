"""Asks one peer for one block, and reports the result as an event of the plan.

This module owns the connections to peers, and checks status, length, range and checksum of their
answers. It runs in the threads of a fetch worker.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import time
from typing import Final
from urllib.parse import urlsplit

import xxhash

from streamer_client.contract.errors import StreamerError
from streamer_client.contract.printable import printable
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.pool import ConnectionPool
from streamer_client.storage.http.settings import HttpSettings
from streamer_client.storage.http.transport.connection import Exchange, HttpConnection
from streamerd.fleet.plan.events import (
    AnyEvent,
    Arrived,
    Ask,
    Corrupt,
    NotThere,
    NotYet,
    SentElsewhere,
    Silent,
)
from streamerd.fleet.plan.ranking import BlockName
from streamerd.fleet.tls import client_context
from streamerd.fleet.wire import (
    CHECKSUM,
    HOLDS,
    LOADS,
    LONGEST_WAIT_S,
    NODE,
    WAIT,
    block_path,
    block_range,
    parse_checksum,
)
from streamerd.settings.fleet import Certificates

logger = logging.getLogger(__name__)

CONNECT_S: Final = 2.0
PATIENT_S: Final = 2.0
"""Seconds for which a peer that comes before this node in a block's order may delay its answer,
while it waits for the block itself."""
SILENCE_S: Final = 4.0
"""Seconds for which a peer may send no byte, in addition to the time for which it may delay its
answer."""
FLOOR_BYTES_S: Final = 256 << 10
_FAILURES: Final = (OSError, http.client.HTTPException, StreamerError, ValueError)
"""Errors of a question whose connection failed or whose answer cannot be parsed."""
assert PATIENT_S <= LONGEST_WAIT_S


class Asking:
    """Asks peers of one fleet. Thread-safe.

    Args:
        fleet: the name of the fleet.
        context: the context for TLS; None if peers are asked in plain HTTP.
    """

    def __init__(self, fleet: str, context: ssl.SSLContext | None) -> None:
        self._fleet = fleet
        self._scheme = "http" if context is None else "https"
        settings = HttpSettings(
            connect_timeout_s=CONNECT_S,
            read_timeout_s=PATIENT_S + SILENCE_S,
            floor_bytes_s=FLOOR_BYTES_S,
        )
        self._pool = ConnectionPool(
            settings, make=lambda origin, given: HttpConnection(origin, given, context)
        )

    def ask(self, command: Ask, me: str, block: BlockName, target: memoryview) -> AnyEvent:
        """Ask a peer for a block, and receive it into `target`, which has the block's length."""
        request = self._request("GET", command.peer, me, block, patient=command.patient)
        try:
            with self._pool.send(request, len(target)) as sent:
                event = self._received(sent.exchange, block, target)
        except _FAILURES as error:
            why = printable(f"{type(error).__name__}: {error}")
            logger.info("event=fleet_peer_silent peer=%s error=%s", command.peer, why)
            return Silent(time.monotonic())
        if isinstance(event, Corrupt):
            return self._judged(command.peer, me, block)
        return event

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close_idle()

    def _request(
        self, method: str, peer: str, me: str, block: BlockName, *, patient: bool
    ) -> Request:
        url = f"{self._scheme}://{peer}{block_path(self._fleet, block.shard)}"
        headers = {"Range": block_range(block.start, block.stop), NODE: me}
        if patient:
            headers[WAIT] = str(PATIENT_S)
        return Request(method, url, f"a block at fleet member {peer}", headers)

    def _received(self, exchange: Exchange, block: BlockName, target: memoryview) -> AnyEvent:
        told = exchange.headers
        match exchange.status:
            case 206:
                return self._body(exchange, block, target)
            case 307:
                parts = urlsplit(told.get("location", ""))
                return SentElsewhere(time.monotonic(), parts.netloc)
            case 503 if HOLDS in told:
                return NotYet(time.monotonic(), holds=told[HOLDS] == "1")
            case 404 if LOADS in told:
                return NotThere(time.monotonic(), loads_shard=told[LOADS] == "1")
            case _:
                return Silent(time.monotonic())

    def _body(self, exchange: Exchange, block: BlockName, target: memoryview) -> AnyEvent:
        told = exchange.headers
        checksum = parse_checksum(told.get(CHECKSUM, ""))
        expected = f"bytes {block.start}-{block.stop - 1}/"
        ranged = told.get("content-range", "").startswith(expected)
        sized = told.get("content-length") == str(len(target)) and "transfer-encoding" not in told
        if checksum is None or not ranged or not sized:
            return Silent(time.monotonic())
        summed, done = xxhash.xxh3_64(), 0
        while done < len(target):
            count = exchange.readinto(target[done:])
            summed.update(target[done : done + count])
            done += count
        if summed.intdigest() != checksum:
            return Corrupt(time.monotonic())
        return Arrived(time.monotonic())

    def _judged(self, peer: str, me: str, block: BlockName) -> AnyEvent:
        """Ask a peer that sent wrong bytes whether it still has the block; returns the verdict.

        A peer that sends a block does not keep its memory from being released meanwhile, and then
        sends zeros. Such a peer did not lie, and now says that it does not have the block.
        """
        try:
            with self._pool.send(self._request("HEAD", peer, me, block, patient=False)) as sent:
                claims = sent.exchange.status == 200
        except _FAILURES:
            claims = True
        if not claims:
            return NotThere(time.monotonic(), loads_shard=True)
        logger.error(
            "event=fleet_peer_corrupt peer=%s shard=%s start=%d effect=%r",
            peer, block.shard, block.start, "asked no more",
        )  # fmt: skip
        return Corrupt(time.monotonic())


def context_for(files: Certificates | None) -> ssl.SSLContext | None:
    """The TLS context of the connections to peers; None for plain HTTP.

    Raises:
        ConfigError: a certificate cannot be used.
    """
    return None if files is None else client_context(files)
