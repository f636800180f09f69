"""Reads one object of a known content by ranged GETs: one for each block, more only to go on.

What a broken attempt brought is kept: the next one asks for the bytes that are still missing. Any
number of threads of a fetch worker, or of a client without a daemon, read through one reader.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

from streamer_client.contract.errors import SourceNotFound
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.http.connection import CutOff, Exchange, plain_body
from streamer_client.storage.http.content_range import check_range, range_header
from streamer_client.storage.http.engine import HttpEngine
from streamer_client.storage.http.messages import Request
from streamer_client.storage.http.probe import changed, vanished
from streamer_client.storage.http.proof import Proof
from streamer_client.storage.http.retry import Attempts


class ObjectReader:
    """One object of a known content.

    Args:
        engine: sends the requests.
        shard: what is read.
        request: a GET of the whole object, not yet prepared, without conditions.
        proof: what its content is known by.
    """

    piece_bytes = 0

    def __init__(
        self, engine: HttpEngine, shard: StoredShard, request: Request, proof: Proof
    ) -> None:
        self._engine = engine
        self._shard = shard
        self._request = replace(
            request, method="GET", headers={**request.headers, **proof.conditions()}
        )
        self._proof = proof
        self._retries = 0
        self._counting = threading.Lock()

    @property
    def retries(self) -> int:
        """Requests that were made again so far."""
        return self._retries

    def readinto(self, buffer: memoryview, start: int) -> int:
        """Fill the whole of `buffer` from byte `start` on.

        Returns:
            The buffer's length: all of it came over the network.

        Raises:
            SourceChanged: the object is not what it was, or vanished.
            CredentialsExpired: they must be renewed.
            SourceError: it could not be read, also after retries.
        """
        target = buffer.cast("B")
        stop = start + len(target)
        if stop > self._shard.size_bytes:
            raise ValueError(f"bytes {start} to {stop} of {self._shard} are past its end")
        done = 0

        def once(attempts: Attempts) -> None:
            nonlocal done
            while done < len(target):
                rest = target[done:]
                for count in self._some(rest, start + done):
                    done += count
                    attempts.progressed()

        try:
            self._engine.persist(self._request, once, self._count)
        except SourceNotFound as error:
            raise vanished(self._shard, error) from error
        return len(target)

    def close(self) -> None:
        """Nothing of its own to give back: connections belong to the pool. Idempotent."""

    def _some(self, target: memoryview, start: int) -> Iterator[int]:
        """One request for all of `target`; yields how many bytes came, as they come."""
        stop = start + len(target)
        request = replace(
            self._request, headers={**self._request.headers, **range_header(start, stop)}
        )
        with self._engine.sent(request, size_bytes=len(target)) as sent:
            length = self._checked(sent.exchange, start, stop)
            done = 0
            while done < length:
                count = sent.exchange.readinto(target[done:length])
                if not count:
                    raise CutOff(done, length)
                done += count
                yield count

    def _checked(self, exchange: Exchange, start: int, stop: int) -> int:
        """Bytes that the body will bring; raises unless they are the ones asked for."""
        how = self._proof.difference(exchange.headers)
        if how:
            raise changed(self._shard, how)
        plain_body(self._shard.uri, exchange.headers)
        size_bytes = self._shard.size_bytes
        return check_range(
            self._shard.uri, exchange.status, exchange.headers, start, stop, size_bytes
        )

    def _count(self) -> None:
        with self._counting:
            self._retries += 1
