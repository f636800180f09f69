"""Sends requests until they are answered: connections, retries and refusals in one place.

Runs in the threads of workers and, without a daemon, of the client. Thread-safe.
"""

from __future__ import annotations

import http.client
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from streamer_client.contract.errors import SourceError, SourceNotFound
from streamer_client.contract.printable import printable
from streamer_client.storage.contract import BucketNotFound
from streamer_client.storage.http.dialect import Answer, Dialect, Request
from streamer_client.storage.http.faults import transport_fault
from streamer_client.storage.http.pool import ConnectionPool
from streamer_client.storage.http.retry import Attempts, RetryPolicy, SendAgain, Transient
from streamer_client.storage.http.transport.connection import Sent

logger = logging.getLogger(__name__)

T = TypeVar("T")

REFUSAL_BYTES: Final = 64 << 10
ANSWER_BYTES: Final = 16 << 20
"""The most bytes of an answer, enough for a page of a listing."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Clock, sleep and random numbers; tests pass their own."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


class HttpEngine:
    """Speaks to the stores of one dialect over one pool."""

    def __init__(
        self,
        pool: ConnectionPool,
        dialect: Dialect,
        policy: RetryPolicy | None = None,
        waits: Waits | None = None,
    ) -> None:
        self._pool = pool
        self._dialect = dialect
        self._policy = policy or RetryPolicy()
        self._waits = waits or Waits()

    def ask(
        self,
        request: Request,
        *,
        unjudged: frozenset[int] = frozenset(),
        limit_bytes: int = ANSWER_BYTES,
    ) -> Answer:
        """Send a request, repeat it while that may help, and return the whole answer.

        Args:
            request: the request, not yet prepared.
            unjudged: statuses that are returned as an answer and not judged as refusals.
            limit_bytes: how many bytes of the body are wanted at most.

        Raises:
            StreamerError: the dialect or `faults.py` says so.
        """
        body_bytes = 0 if request.method == "HEAD" else limit_bytes

        def once(_attempts: Attempts) -> Answer:
            with self.sent(request, unjudged, body_bytes) as sent:
                return sent.answer(limit_bytes)

        return self.with_retries(request, once)

    def ask_listing(self, request: Request) -> bytes:
        """One page of a bucket's listing, as the store sends it.

        Raises:
            BucketNotFound: the store says that there is no such page. Since a prefix without
                objects has an empty page, the bucket must be missing.
            StreamerError: as in `ask`.
        """
        try:
            return self.ask(request).body
        except SourceNotFound as error:
            raise BucketNotFound(str(error)) from error

    def with_retries(
        self,
        request: Request,
        once: Callable[[Attempts], T],
        on_again: Callable[[], None] | None = None,
    ) -> T:
        """Call `once` until it returns, waiting after each `Transient`.

        Args:
            request: the request, for the text of errors.
            once: makes one attempt, and tells `Attempts` of progress.
            on_again: called before each attempt but the first.

        Raises:
            SourceError: the fault did not pass within the policy's bounds.
            StreamerError: any other error of `once`.
        """
        waits = self._waits
        attempts = Attempts(self._policy, waits.clock())
        while True:
            try:
                return once(attempts)
            except SendAgain as verdict:
                if not attempts.corrected():
                    raise SourceError(
                        f"{request.about}: the store redirects or corrects the request again and "
                        f"again, at last with {verdict}; give the right endpoint and region"
                    ) from verdict
                delay_s = 0.0
            except Transient as fault:
                delay_s = self._delay_s(request, attempts, fault)
            if on_again:
                on_again()
            if delay_s:
                waits.sleep(delay_s)

    def _delay_s(self, request: Request, attempts: Attempts, fault: Transient) -> float:
        waits = self._waits
        now_s = waits.clock()
        reached = not fault.connecting or self._pool.reached(self._dialect.prepared(request).url)
        delay_s = attempts.delay_s(fault, now_s, waits.chance(), reached=reached)
        if delay_s is None:
            raise SourceError(
                f"{request.about}: given up after {attempts.summary(now_s)}: {fault}; "
                f"{fault.remedy}"
            ) from fault
        logger.info(
            "event=request_again about=%s attempt=%d delay_s=%.2f reason=%s",
            printable(request.about),
            attempts.made + 1,
            delay_s,
            printable(str(fault)),
        )
        return delay_s

    @contextmanager
    def sent(
        self, request: Request, unjudged: frozenset[int] = frozenset(), size_bytes: int = 0
    ) -> Iterator[Sent]:
        """Make one attempt: an exchange that was answered by 2xx or by one of `unjudged`.

        A connection that breaks inside the `with` block raises the same errors as one that breaks
        before it. The attempt's time limit grows with the size of the wanted body, and ends also an
        answer whose bytes only trickle in.

        Raises:
            Transient, SendAgain: another attempt may succeed.
            StreamerError: no attempt will succeed.
        """
        prepared = self._dialect.prepared(request)
        try:
            with self._pool.send(prepared, size_bytes) as sent:
                status = sent.exchange.status
                if not 200 <= status < 300 and status not in unjudged:
                    answer = sent.answer(REFUSAL_BYTES)
                    raise self._dialect.refusal(request, prepared, answer)
                yield sent
        except (OSError, http.client.HTTPException) as error:
            raise transport_fault(error, prepared, self._pool.settings) from error
