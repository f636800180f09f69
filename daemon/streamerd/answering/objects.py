"""Finds the objects that a request means, and asks the store whose credentials may read them.

Workers ask the store, since the loop must not wait for it. `rights.py` says which loads must show
their right to which objects before bytes are shared. This module owns the requests under way. Runs
in the daemon's loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from streamer_client.contract.checks import check_shards
from streamer_client.contract.errors import (
    ConfigError,
    ProtocolMismatch,
    StreamerError,
    error_from_code,
)
from streamer_client.contract.messages import Open, Prefetch
from streamer_client.contract.printable import printable
from streamer_client.contract.uris import is_remote
from streamer_client.storage.contract import StoredShard
from streamer_client.storage.remembered import Remembered
from streamerd.answering.files.local_files import FoundShard
from streamerd.answering.rights import Owed, Rights
from streamerd.control.sessions import Session
from streamerd.reading.backing import Name
from streamerd.service.shards import Shards
from streamerd.state.events import LoadKey, ShardKey
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import Environments
from streamerd.workers.in_daemon.supervisor import Workers

LISTING_WAIT_S: Final = 600.0
"""Seconds for which a worker may list a store. The storage code's own time limits and attempts end
much earlier, so a thread that has not answered by then never does. Without this limit its request
would count against its client's or its user's bounds for ever."""

MOST_ROUNDS: Final = 8
"""How often one request may look at its shards, since other loads open and objects change."""

Found = Callable[[tuple[FoundShard, ...]], None]
NotFound = Callable[[StreamerError], None]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request whose objects are being found."""

    session: Session
    environment: dict[str, str]
    then: Found
    failed: NotFound
    apart: frozenset[ShardKey] = frozenset()
    """Shards that this request does not share, since another load that has them open may not read
    them."""
    rounds: int = 0


class Objects:
    """Finds objects for requests.

    Args:
        shards: where objects are entered.
        environments: the credentials of loads.
        rights: tells which loads have shown their right to which objects.
        workers: the workers that ask stores.
        listings: what is known of listings; see `LISTINGS` of the storage code.
        block_bytes: size of a block.
    """

    def __init__(
        self,
        shards: Shards,
        environments: Environments,
        rights: Rights,
        workers: Workers,
        listings: Remembered[str, bool],
        block_bytes: int,
    ) -> None:
        self._listings = listings
        self._shards = shards
        self._environments = environments
        self._rights = rights
        self._workers = workers
        self._block_bytes = block_bytes
        self._own = 0
        """How many objects without a validator were opened. Each becomes a shard of its own."""

    def find(
        self, session: Session, message: Open | Prefetch, then: Found, failed: NotFound
    ) -> None:
        """Find a request's objects, and call either `then` with them or `failed`, once."""
        if (error := _path_error(message)) is not None:
            failed(error)
            return
        asked = _Asked(session, message.environment, then, failed)
        what = message.source, message.pattern, message.files
        known = self._listings.items()
        job = jobs.Resolve(self._workers.next_job(), *what, message.environment, known)

        def answered(answer: jobs.Answer | None) -> None:
            try:
                stored = self._checked(listed_shards(message.source, answer))
            except StreamerError as error:
                failed(error)
            else:
                self._learn(answer)
                self._settle(asked, stored)

        self._workers.submit(job, answered, limit_s=LISTING_WAIT_S)

    def _learn(self, answer: jobs.Answer | None) -> None:
        """Remember for all workers what one of them learned about listings."""
        if isinstance(answer, jobs.Resolved):
            for place, is_right in answer.learned:
                if is_right is None:
                    self._listings.forget(place)
                else:
                    self._listings.learn(place, is_right)

    def opened(
        self, load: LoadKey, environment: Mapping[str, str], found: Sequence[FoundShard]
    ) -> None:
        """Note a load's environment and objects when the load is given to the core."""
        objects = [each for each in found if is_remote(each.stored.uri)]
        if objects:
            listed = (each.key for each in objects if not each.stored.looked_at)
            self._rights.opened(load, environment, (each.key for each in objects), listed)

    # --- rights ---------------------------------------------------------------------------------

    def _settle(self, asked: _Asked, stored: tuple[StoredShard, ...]) -> None:
        """Enter the objects once each load that shares one has shown its right to it."""
        keys = {_key(shard): shard for shard in stored}
        listed = [key for key, shard in keys.items() if not shard.looked_at]
        unsure = self._rights.to_look_at(asked.environment, listed)
        if asked.rounds >= MOST_ROUNDS:
            text = f"{stored[0].uri}: changes, or is opened by others, again and again; try again"
            asked.failed(StreamerError(text))
        elif unsure:
            self._look_at(replace(asked, rounds=asked.rounds + 1), stored, unsure)
        else:
            shared = [key for key in keys if key not in asked.apart and keys[key].validated]
            owed = self._rights.owed(asked.environment, shared)
            if owed is None:
                asked.then(tuple(self._entered(asked, key, shard) for key, shard in keys.items()))
            else:
                self._ask_for(asked, stored, owed)

    def _look_at(
        self, asked: _Asked, stored: tuple[StoredShard, ...], keys: Sequence[ShardKey]
    ) -> None:
        """Have a worker look at some of the objects with the request's own credentials."""

        def answered(answer: jobs.Answer | None) -> None:
            try:
                seen = {shard.uri: shard for shard in listed_shards(stored[0].uri, answer)}
                found = self._checked(tuple(seen.get(shard.uri, shard) for shard in stored))
            except StreamerError as error:
                asked.failed(error)
            else:
                self._settle(asked, found)

        self._submit(keys, asked.environment, answered)

    def _ask_for(self, asked: _Asked, stored: tuple[StoredShard, ...], owed: Owed) -> None:
        """Look at objects with the credentials of another load, which would share them.

        An object that those credentials may not read is not shared with that load.
        """

        def answered(answer: jobs.Answer | None) -> None:
            try:
                seen = {_key(shard) for shard in listed_shards(stored[0].uri, answer)}
            except StreamerError:
                seen = set()
            missing = set(owed.shards) - seen
            if missing:
                self._settle(replace(asked, apart=asked.apart | missing), stored)
            else:
                self._rights.shown(owed)
                self._settle(asked, stored)

        self._submit(owed.shards, self._environments.of(owed.load), answered)

    def _checked(self, stored: tuple[StoredShard, ...]) -> tuple[StoredShard, ...]:
        check_shards(((shard.uri, shard.size_bytes) for shard in stored), self._block_bytes)
        return stored

    def _submit(
        self,
        keys: Sequence[ShardKey],
        environment: dict[str, str],
        answered: Callable[[jobs.Answer | None], None],
    ) -> None:
        uris = tuple(key.uri for key in keys)
        job = jobs.LookAt(self._workers.next_job(), uris, environment)
        self._workers.submit(job, answered, limit_s=LISTING_WAIT_S)

    def _entered(self, asked: _Asked, key: ShardKey, stored: StoredShard) -> FoundShard:
        if key in asked.apart:
            # All further loads share one more copy. If each got a copy of its own, a load that
            # opened what it may not read could make all others read alone.
            stored = msgspec.structs.replace(stored, validated=False)
            key = ShardKey(stored.uri, f"{stored.identity} apart")
        elif not stored.validated:
            self._own += 1
            key = ShardKey(stored.uri, f"{stored.identity} unvalidated {self._own}")
        self._shards.enter(key, stored, Name(asked.session.uid, 0, stored.uri))
        return FoundShard(key, stored.uri, stored)


def _key(stored: StoredShard) -> ShardKey:
    return ShardKey(stored.uri, stored.identity)


def _path_error(message: Open | Prefetch) -> ProtocolMismatch | None:
    """The error of a request without files that names a path; None if it names objects."""
    named = message.files if message.files is not None else (message.source,)
    for name in (message.source, *named):
        if not is_remote(name):
            return ProtocolMismatch(
                f"{printable(name)}: a path means something to its own process only; hand the "
                "files over on the descriptor socket"
            )
    return None


def listed_shards(source: str, answer: jobs.Answer | None) -> tuple[StoredShard, ...]:
    """The shards of a source, as a worker found them.

    Raises:
        StreamerError: the worker's error, of the class that it had there.
    """
    match answer:
        case jobs.Resolved(_, shards):
            if len({shard.uri for shard in shards}) < len(shards):
                raise ConfigError(f"{source}: a file is named twice; name each once")
            return shards
        case jobs.JobFailed(_, code, message):
            raise error_from_code(code, message)
        case _:
            raise StreamerError(f"{source}: the worker that listed it died; try again")
