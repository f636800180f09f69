"""Handles the messages about shards in memory: `Evict`, `Pin`, `Unpin`, `Verify`, and `Drop`.

Each message waits until the files that it names were examined. `cache.py` or `verification.py` then
carries it out. This module owns the verifications under way, by client. Runs in the daemon's loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from streamer_client.contract import messages
from streamer_client.contract.errors import RequestRefused
from streamer_client.contract.sizes import format_size
from streamerd.answering.cache import Cache
from streamerd.answering.files.handovers import Handed, Handovers
from streamerd.answering.files.local_files import LocalFiles
from streamerd.answering.requests import Replies, Requests
from streamerd.answering.verification import Means, Verification
from streamerd.control.sessions import Session

logger = logging.getLogger(__name__)

MAX_VERIFICATIONS: Final = 8
"""The most verifications of one client at once. Each keeps a few reads of the workers busy."""

Files = tuple[Handed, ...]
_NamesFiles = messages.Evict | messages.Pin | messages.Unpin | messages.Verify


class CacheRequests:
    """Handles the messages about shards in memory.

    Args:
        replies: sends answers.
        cache: evicts, pins and unpins.
        files: knows which shard a file is.
        handovers: the files that clients handed over.
        means: the parts of the daemon that verifications use.
    """

    def __init__(
        self,
        replies: Replies,
        cache: Cache,
        files: LocalFiles,
        handovers: Handovers,
        means: Means,
    ) -> None:
        self._replies = replies
        self._cache = cache
        self._files = files
        self._handovers = handovers
        self._means = means
        self._verifications: dict[str, list[Verification]] = {}

    def register(self, requests: Requests) -> None:
        """Register the handlers of these messages in the table."""
        requests.on(messages.Evict, self._evict, by_state=True)
        requests.on(messages.Pin, self._pin, by_state=True)
        requests.on(messages.Unpin, self._unpin, by_state=True)
        requests.on(messages.Verify, self._verify, by_state=True)
        requests.on(messages.Drop, self._drop)

    def gone(self, session: Session) -> None:
        """Stop the verifications of a client that left or died."""
        for verification in self._verifications.pop(session.name, ()):
            verification.stop()

    def _with_files(
        self, session: Session, message: _NamesFiles, act: Callable[[Files], None]
    ) -> None:
        """Act once the files that a message names were examined."""

        def examined(files: Files) -> None:
            self._replies.attempt(session, message, lambda: act(files))

        if message.transfer:
            self._handovers.when_examined(
                session,
                message.transfer,
                examined,
                lambda error: self._replies.refuse(session, message, error),
            )
        else:
            examined(())

    def _evict(self, session: Session, message: messages.Evict) -> None:
        def done(told: str) -> None:
            _log("evicted", session, message.sources or ("all",), told)
            self._replies.send(session, messages.Done(message.request_id, told))

        self._with_files(
            session,
            message,
            lambda files: self._cache.evict(session, message.sources, files, done),
        )

    def _pin(self, session: Session, message: messages.Pin) -> None:
        def act(files: Files) -> None:
            told = self._cache.pin(session, message.source, files)
            _log("pinned", session, (message.source,), told)
            self._replies.send(session, messages.Done(message.request_id, told))

        self._with_files(session, message, act)

    def _unpin(self, session: Session, message: messages.Unpin) -> None:
        def act(files: Files) -> None:
            told = self._cache.unpin(session, message.source, files)
            _log("unpinned", session, (message.source,), told)
            self._replies.send(session, messages.Done(message.request_id, told))

        self._with_files(session, message, act)

    def _verify(self, session: Session, message: messages.Verify) -> None:
        self._with_files(
            session, message, lambda files: self._begin_verification(session, message, files)
        )

    def _begin_verification(self, session: Session, message: messages.Verify, files: Files) -> None:
        mine = self._verifications.setdefault(session.name, [])
        mine[:] = [one for one in mine if not one.ended]
        if len(mine) >= MAX_VERIFICATIONS:
            raise RequestRefused(
                f"{len(mine)} verifications of this client are under way, and no more may be; wait "
                "until some are done"
            )
        verification = Verification(
            self._means,
            message,
            self._cache.shards_of(session, message.source, files),
            self._files.pairs(files),
            lambda told: self._tell_verified(session, message, told),
        )
        mine.append(verification)
        verification.start()

    def _tell_verified(
        self, session: Session, message: messages.Verify, told: messages.Message
    ) -> None:
        if isinstance(told, messages.Verified):
            found = (
                f"{format_size(told.checked_bytes)} compared, {format_size(told.skipped_bytes)} "
                f"skipped, {len(told.findings)} findings"
            )
            _log("verified", session, (message.source,), found)
        self._replies.send(session, told)

    def _drop(self, session: Session, message: messages.Drop) -> None:
        self._handovers.drop(session, message.transfer)


def _log(event: str, session: Session, sources: Sequence[str], done: str) -> None:
    """Log one line about an operator's request and what was done."""
    logger.info(
        "event=%s source=%s pid=%d uid=%d label=%r done=%r",
        event, ",".join(sources), session.pid, session.uid, session.label, done,
    )  # fmt: skip
