"""The list of members as this node knows it, asked for again and again by a thread of its own.

If the engine fails, the last list stays in use for a while. Members on it that are gone do not
answer, and a block that no peer sends is read from the store. Runs in the fleet's process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, assert_never

from streamer_client.contract.errors import ConfigError, StreamerError
from streamer_client.contract.printable import printable
from streamerd.fleet.members.contract import Members, MembersFailed
from streamerd.settings.fleet import DnsMembers, EtcdMembers, Terms

logger = logging.getLogger(__name__)

LOOK_S: Final = 3.0
FORGOTTEN_S: Final = 60.0
"""After this time without an answer of the engine the list is emptied, so that every block is read
from the store."""

Changed = Callable[[str, frozenset[str], str], None]
"""Called with this node's address, the addresses of all members, and why the engine does not answer
(empty if it does)."""
MOST_ERROR_CHARACTERS: Final = 400


def source_of(terms: Terms) -> Members:
    """The engine that the terms name.

    Raises:
        ConfigError: the engine's library is not installed.
    """
    match terms.members:
        case EtcdMembers() as where:
            try:
                from streamerd.fleet.members.etcd import EtcdSource  # noqa: PLC0415  an extra
            except ImportError as error:
                raise ConfigError(
                    f"fleet_members names etcd, whose client is not installed ({error}); "
                    "pip install streamerd[fleet]"
                ) from error
            return EtcdSource(where, terms.name, terms.listen)
        case DnsMembers() as where:
            from streamerd.fleet.members.dns import DnsSource  # noqa: PLC0415  as above

            return DnsSource(where, terms.listen)
        case _ as unknown:
            assert_never(unknown)


class Book:
    """Keeps the list of members up to date.

    Args:
        source: the engine.
        changed: called in the book's thread when the list or the engine's error has changed.
        clock: returns seconds.
    """

    def __init__(
        self, source: Members, changed: Changed, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._changed = changed
        self._clock = clock
        self._told: tuple[str, frozenset[str], str] = ("", frozenset(), "")
        self._answered_s = clock()
        self._failing = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="members", daemon=True)

    @property
    def members(self) -> frozenset[str]:
        """All members known now."""
        return self._told[1]

    def start(self) -> None:
        """Start the thread that asks the engine."""
        self._thread.start()

    def close(self) -> None:
        """Leave the fleet."""
        self._closed = True
        self._source.leave()

    def _run(self) -> None:
        while not self._closed:
            self.look()
            self._source.wait(LOOK_S)

    def look(self) -> None:
        """Ask the engine once."""
        try:
            found = self._source.look()
        except (MembersFailed, StreamerError) as error:
            if not self._failing:
                logger.warning("event=fleet_members_unknown error=%s", error)
            self._failing = True
            forgotten = self._clock() - self._answered_s >= FORGOTTEN_S
            self._tell(frozenset() if forgotten else self.members, _short(error))
            return
        if self._failing:
            logger.info("event=fleet_members_known_again members=%d", len(found))
        self._failing, self._answered_s = False, self._clock()
        self._tell(found)

    def _tell(self, members: frozenset[str], error: str = "") -> None:
        told, before = (self._source.me, members, error), self._told
        if told == before:
            return
        self._told = told
        if told[:2] != before[:2]:
            logger.info("event=fleet_members me=%s members=%d", told[0], len(members))
        self._changed(*told)


def _short(error: Exception) -> str:
    text = printable(str(error))
    return text if len(text) <= MOST_ERROR_CHARACTERS else text[:MOST_ERROR_CHARACTERS] + "…"
