"""Evicts, pins and unpins shards in memory for operators.

Each method returns what was done, in words. A local source means the shards of its files, as far as
the client can open these files. Files that the client cannot open any more are found by the names
that the same user gave them. Runs in the daemon's loop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from streamer_client.contract.errors import MemoryLimitError, RequestRefused, SourceNotFound
from streamer_client.contract.printable import printable
from streamer_client.contract.sizes import format_size, shards_word
from streamer_client.contract.uris import is_remote
from streamerd.answering.files.handovers import Handed
from streamerd.answering.files.local_files import LocalFiles
from streamerd.control.sessions import Session, Sessions
from streamerd.reading.backing import Backing
from streamerd.service.shards import Shards
from streamerd.service.views import Decisions, ModelView, ShardView
from streamerd.state import events
from streamerd.state.events import LoadKey, ShardKey

ROOT_UID = 0
MOST_HOLDERS: Final = 8
"""Number of lease holders that an answer names. It only counts the others."""


class Cache:
    """The shards in memory, as operators name them: by source, or by file.

    Args:
        model: the shards that the core knows.
        decisions: lets the core decide on a request at once.
        shards: the backings of the shards.
        sessions: the connected clients, to name the holders of leases.
        files: knows which shard a file is.
    """

    def __init__(
        self,
        model: ModelView,
        decisions: Decisions,
        shards: Shards,
        sessions: Sessions,
        files: LocalFiles,
    ) -> None:
        self._model = model
        self._decisions = decisions
        self._shards = shards
        self._sessions = sessions
        self._files = files

    def shards_of(self, session: Session, source: str, files: Sequence[Handed]) -> list[ShardView]:
        """The shards of these files, and those directly under a directory or prefix.

        Raises:
            SourceNotFound: no shard of the source is in memory.
        """
        found = self._found(session, (source,), files)
        if not found:
            raise SourceNotFound(
                f"{printable(source)} is not in memory; `streamerctl status` lists what is"
            )
        return found

    def _found(
        self, session: Session, sources: Iterable[str], files: Sequence[Handed]
    ) -> list[ShardView]:
        shards, backings = self._model.shards, self._shards.backings
        meant = self._files.pairs(files).keys()
        uris = {_as_listed(source) for source in sources}
        return [
            shard
            for key, shard in shards.items()
            if key in meant or _is_called(backings[key], session, uris)
        ]

    def evict(
        self,
        session: Session,
        sources: tuple[str, ...],
        files: Sequence[Handed],
        done: Callable[[str], None],
    ) -> None:
        """Release the shards of `sources`; without sources, all that are neither leased nor pinned.

        Args:
            session: the client that asks.
            sources: directories, prefixes or files.
            files: the local files of `sources` that the client could open.
            done: called with a text that says what was released, once its memory is free.

        Raises:
            SourceNotFound: no shard of a source is in memory.
            RequestRefused: a shard is leased or pinned; the text says by whom.
        """
        if sources:
            shards = self._found(session, sources, files)
            if not shards:
                names = ", ".join(printable(source) for source in sources)
                verb = "is" if len(sources) == 1 else "are"
                raise SourceNotFound(
                    f"{names} {verb} not in memory; `streamerctl status` lists what is"
                )
            for shard in shards:
                self._refuse_if_needed(shard)
        else:
            known = self._model.shards.values()
            shards = [shard for shard in known if not shard.loads and not shard.pinned]
            self._shards.forget_failures()
        size_bytes = sum(shard.resident_bytes for shard in shards)
        keys = tuple(shard.key for shard in shards)
        self._decisions.decide(events.EvictRequested(self._decisions.now_s, keys))
        told = f"{shards_word(len(keys))}, {format_size(size_bytes)} released"
        if not sources and (left := self._left()):
            told += f"; left: {left}"
        self._shards.when_gone(keys, lambda: done(told))

    def _left(self) -> str:
        """A text that says which shards stay in memory, and why."""
        leased = [shard for shard in self._model.shards.values() if shard.loads]
        pinned = [one for one in self._model.shards.values() if one.pinned and not one.loads]
        parts = []
        if leased:
            holders = sorted({self._holder(key) for shard in leased for key in shard.loads})
            parts.append(f"{_told(leased)} in use by {_first(holders)}")
        if pinned:
            parts.append(f"{_told(pinned)} pinned (`streamerctl unpin`)")
        return "; ".join(parts)

    def _refuse_if_needed(self, shard: ShardView) -> None:
        uri = self._shards.backings[shard.key].stored.uri
        if shard.loads:
            holders = sorted({self._holder(key) for key in shard.loads})
            raise RequestRefused(
                f"{uri} is in use by {', '.join(holders)}; evict it when they are done"
            )
        if shard.pinned:
            raise RequestRefused(f"{uri} is pinned; `streamerctl unpin` it first")

    def _holder(self, key: LoadKey) -> str:
        session = self._sessions.get(key.owner)
        if session is None:
            return "a prefetch"
        return f"pid {session.pid} ({session.label})" if session.label else f"pid {session.pid}"

    def note_pins(self, session: Session, keys: Iterable[ShardKey]) -> None:
        """Remember the user who asked for shards to be pinned."""
        for key in keys:
            if (backing := self._shards.backings.get(key)) is not None:
                backing.pinned_by.add(session.uid)

    def pin(self, session: Session, source: str, files: Sequence[Handed]) -> str:
        """Keep a source in memory until it is unpinned.

        Raises:
            SourceNotFound: no shard of the source is in memory.
            MemoryLimitError: there is no room to set aside for the source.
        """
        shards = self.shards_of(session, source, files)
        keys = tuple(shard.key for shard in shards)
        self._decisions.decide(events.PinRequested(self._decisions.now_s, keys))
        if not all(shard.pinned for shard in shards):
            ledger = self._model.ledger
            needed = format_size(sum(shard.slab_bytes for shard in shards))
            free = format_size(ledger.limit_bytes - ledger.committed_bytes)
            raise MemoryLimitError(
                f"{printable(source)} needs {needed} set aside, and {free} of "
                f"{format_size(ledger.limit_bytes)} are not promised to others (one smallest "
                "window stays free); unpin something else first"
            )
        self.note_pins(session, keys)
        return f"{shards_word(len(shards))} pinned"

    def unpin(self, session: Session, source: str, files: Sequence[Handed]) -> str:
        """Let a source be evicted again. Root may unpin all shards, others those that they pinned.

        Raises:
            SourceNotFound: no shard of the source is in memory.
            RequestRefused: the source is not pinned, or not by this user.
        """
        pinned = [shard for shard in self.shards_of(session, source, files) if shard.pinned]
        if not pinned:
            raise RequestRefused(f"{printable(source)} is not pinned")
        backings = [self._shards.backings[shard.key] for shard in pinned]
        others: set[int] = set().union(*(backing.pinned_by for backing in backings))
        if session.uid != ROOT_UID and not any(session.uid in one.pinned_by for one in backings):
            users = ", ".join(str(uid) for uid in sorted(others)) or "another"
            raise RequestRefused(
                f"{printable(source)} was pinned by user {users}, who may unpin it, as root may"
            )
        for backing in backings:
            if session.uid == ROOT_UID:
                backing.pinned_by.clear()
            backing.pinned_by.discard(session.uid)
        free = tuple(
            shard.key
            for shard, backing in zip(pinned, backings, strict=True)
            if not backing.pinned_by
        )
        self._decisions.post(events.UnpinRequested(self._decisions.now_s, free))
        still_pinned = len(pinned) - len(free)
        told = f"{shards_word(len(free))} unpinned"
        return f"{told}, {still_pinned} stay pinned by others" if still_pinned else told


def _told(shards: Sequence[ShardView]) -> str:
    resident = format_size(sum(shard.resident_bytes for shard in shards))
    return f"{shards_word(len(shards))} ({resident})"


def _first(names: Sequence[str]) -> str:
    """The names, as far as a line has room for them."""
    more = len(names) - MOST_HOLDERS
    return ", ".join(names[:MOST_HOLDERS]) + (f" and {more} more" if more > 0 else "")


def _is_called(backing: Backing, session: Session, uris: set[str]) -> bool:
    """Whether this user has one of these names for a shard; all users share objects' names."""
    for name in backing.names:
        if name.text in uris or os.path.dirname(name.text) in uris:
            own = session.uid in (name.uid, ROOT_UID)
            if own or is_remote(name.text):
                return True
    return False


def _as_listed(source: str) -> str:
    """The source as the prefix with which the URIs of its shards begin."""
    if not is_remote(source):
        return source.rstrip("/") or "/"
    scheme, _, path = source.partition("://")
    return f"{scheme.lower()}://{path.rstrip('/')}"
