"""Looks at one object, and reads it by ranged GETs: one for each block, and one more after a break.

Owns the answer to "is this still the object that was listed?", for HEAD and for each range; leaves
sending to `engine.py`. The bytes that came before a connection broke are kept, and the next attempt
asks only for the missing ones. Any number of threads of a worker, or of a client without a daemon,
read through one reader.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from streamer_client.contract.errors import SourceChanged, SourceError, SourceNotFound
from streamer_client.storage.contract import Arrived, StoredShard
from streamer_client.storage.http.dialect import Request
from streamer_client.storage.http.engine import HttpEngine
from streamer_client.storage.http.headers import check_range, plain_body, range_header, total_size
from streamer_client.storage.http.proof import ObjectProof, proof_of
from streamer_client.storage.http.retry import Attempts
from streamer_client.storage.http.transport.connection import CutOff, Exchange

PART_BYTES: Final = 1 << 20
"""The most bytes that are received at once. A part this long fits a processor's second cache, so
that its checksum is taken there as it arrives. When checksums were taken from memory, after whole
blocks, those of 12.9 GB took 2.4 s of processor time at sixteen processors."""

_SILENT: Final = frozenset({400, 401, 403, 404, 405, 501})
"""Refusals of HEAD after which a GET of one byte is sent, since an answer to HEAD has no body that
explains it.

The GET succeeds if only GET was signed, as in presigned URLs, or if the server has no HEAD."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that exists."""

    proof: ObjectProof
    media_type: str


def look_at(engine: HttpEngine, request: Request) -> Found:
    """Look at the object that `request` (a HEAD) names.

    Raises:
        SourceNotFound: there is no such object.
        SourceForbidden: the object may not be read.
        SourceError: the server does not tell the size, or did not answer.
    """
    answer = engine.ask(replace(request, method="HEAD"), unjudged=_SILENT)
    if answer.status in _SILENT:
        first_byte = {**request.headers, **range_header(0, 1)}
        answer = engine.ask(
            replace(request, method="GET", headers=first_byte),
            unjudged=frozenset({416}),
            limit_bytes=1,
        )
    size_bytes = total_size(answer.status, answer.headers)
    if size_bytes is None:
        raise SourceError(
            f"{request.about}: the server does not say how long it is (no Content-Length), so it "
            "cannot be read in blocks; serve it as a plain file"
        )
    return Found(
        proof_of(answer.headers, size_bytes), answer.headers.get("content-type", "").lower()
    )


def stored_shard(engine: HttpEngine, request: Request, kind: str, endpoint: str) -> StoredShard:
    """The object as a shard, whose name is `request.about`.

    Raises:
        SourceError: as in `look_at`.
    """
    proof = look_at(engine, request).proof
    identity = proof.identity(kind, endpoint)
    return StoredShard(request.about, proof.size_bytes, identity, validated=proof.lasting)


def unchanged(
    engine: HttpEngine, request: Request, shard: StoredShard, kind: str, endpoint: str
) -> ObjectProof:
    """The proof of a shard that has not changed since it was listed.

    Raises:
        SourceChanged: the object has changed or vanished.
        SourceError: as in `look_at`.
    """
    try:
        proof = look_at(engine, request).proof
    except SourceNotFound as error:
        raise vanished(shard, error) from error
    found = proof.identity(kind, endpoint)
    if found != shard.identity:
        raise changed(shard, f"expected {shard.identity}, found {found}")
    return proof


def changed(shard: StoredShard, how: str) -> SourceChanged:
    """The error for an object that has changed since it was listed."""
    return SourceChanged(
        f"{shard.uri}: changed since the load began ({how}); "
        "open the checkpoint again when nothing writes to it"
    )


def vanished(shard: StoredShard, error: SourceNotFound) -> SourceChanged:
    """The error for an object that has vanished since it was listed."""
    told = str(error).removeprefix(f"{shard.uri}: ")
    return SourceChanged(
        f"{shard.uri}: vanished since the load began ({told}); "
        "open the checkpoint again once it is complete"
    )


class ObjectReader:
    """Reads one object of a known content.

    Args:
        engine: sends the requests.
        shard: the shard to read.
        request: a GET of the whole object, not yet prepared, without conditions.
        proof: tells this content from any other.
    """

    piece_bytes = 0

    def __init__(
        self, engine: HttpEngine, shard: StoredShard, request: Request, proof: ObjectProof
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
        """How many requests were repeated so far."""
        return self._retries

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        """Fill the whole of `buffer` from byte `start` on.

        Args:
            buffer: the memory to fill, in order, even after breaks and retries.
            start: offset in the object of the buffer's first byte.
            arrived: called with each part as it comes, at most `PART_BYTES` long.

        Returns:
            The buffer's length, since all of it came over the network.

        Raises:
            SourceChanged: the object has changed or vanished.
            CredentialsExpired: the credentials must be renewed.
            SourceError: the object could not be read, even after retries.
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
                    if arrived:
                        arrived(target[done : done + count])
                    done += count
                    attempts.progressed()

        try:
            self._engine.with_retries(self._request, once, self._count)
        except SourceNotFound as error:
            raise vanished(self._shard, error) from error
        return len(target)

    def close(self) -> None:
        """Do nothing: connections belong to the pool. Idempotent."""

    def _some(self, target: memoryview, start: int) -> Iterator[int]:
        """Make one request for all of `target`; yield the number of bytes at each arrival."""
        stop = start + len(target)
        request = replace(
            self._request, headers={**self._request.headers, **range_header(start, stop)}
        )
        with self._engine.sent(request, size_bytes=len(target)) as sent:
            length = self._checked(sent.exchange, start, stop)
            done = 0
            while done < length:
                count = sent.exchange.readinto(target[done : min(length, done + PART_BYTES)])
                if not count:
                    raise CutOff(done, length)
                done += count
                yield count

    def _checked(self, exchange: Exchange, start: int, stop: int) -> int:
        """How many bytes the body will bring; raises if they are not the ones asked for."""
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
