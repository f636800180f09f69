"""What `Open` and `Prefetch` have in common: finding their shards, and giving them to the core.

The shards are among the files that a client handed over, or are listed at an object store by a
worker, since the loop must not wait for a store. Owns no state but a count. Runs in the daemon's
loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

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
from streamerd.answering.files.handovers import Handed, Handovers
from streamerd.answering.files.local_files import FoundShard, LocalFiles
from streamerd.control.sessions import Session
from streamerd.reading.backing import Name
from streamerd.service.answers import Answers, Ticket
from streamerd.service.shards import Shards
from streamerd.service.views import Events
from streamerd.state.events import LoadKey, LoadOpened, ShardKey, ShardSpec
from streamerd.workers import jobs
from streamerd.workers.in_daemon.environments import Environments
from streamerd.workers.in_daemon.supervisor import Fleet

LISTING_WAIT_S: Final = 600.0
"""For how long a worker may list a store. Far beyond what the storage code's own limits and
attempts take: a thread that has not answered by then never does, and its request would count
against its client's bounds, or its user's, for ever."""

Found = Callable[[tuple[FoundShard, ...]], None]
NotFound = Callable[[StreamerError], None]


class Openings:
    """Finds shards and gives loads to the core.

    Args:
        events: hears of loads.
        shards: where objects are entered.
        files: enters local files.
        handovers: what clients handed over.
        answers: answers once the core has decided.
        environments: what a load's client sent along for reading.
        fleet: the workers that list stores.
        block_bytes: size of a block.
    """

    def __init__(
        self,
        events: Events,
        shards: Shards,
        files: LocalFiles,
        handovers: Handovers,
        answers: Answers,
        environments: Environments,
        fleet: Fleet,
        block_bytes: int,
    ) -> None:
        self._events = events
        self._shards = shards
        self._files = files
        self._handovers = handovers
        self._answers = answers
        self._environments = environments
        self._fleet = fleet
        self._block_bytes = block_bytes
        self._unvalidated = 0
        """How many objects without a validator were opened: each is a shard of its own."""

    def find(
        self,
        session: Session,
        load: LoadKey,
        message: Open | Prefetch,
        then: Found,
        failed: NotFound,
    ) -> None:
        """Find a request's shards, and call either `then` with them or `failed`, once."""
        if message.transfer:

            def examined(files: tuple[Handed, ...]) -> None:
                self._files.admit(session, load, files, then, failed)

            self._handovers.when_examined(session, message.transfer, examined, failed)
        else:
            self._list(session, message, then, failed)

    def begin(
        self,
        session: Session,
        event: LoadOpened,
        message: Open | Prefetch,
        shards: Sequence[FoundShard],
    ) -> None:
        """Give a load to the core; its request is answered when the core has decided."""
        names = tuple(shard.name for shard in shards)
        size_bytes = sum(shard.stored.size_bytes for shard in shards)
        ticket = Ticket(session.name, message.request_id, size_bytes, names)
        self._answers.expect(event.load, ticket)
        self._environments.put(event.load, message.environment)
        self._events.post(event)

    # --- stores ---------------------------------------------------------------------------------

    def _list(
        self, session: Session, message: Open | Prefetch, then: Found, failed: NotFound
    ) -> None:
        if (error := _path_error(message)) is not None:
            failed(error)
            return
        asked = message.source, message.pattern, message.files
        job = jobs.Resolve(self._fleet.next_job(), *asked, message.environment)

        def answered(answer: jobs.Answer | None) -> None:
            try:
                stored = listed_shards(message.source, answer)
                sizes = ((shard.uri, shard.size_bytes) for shard in stored)
                check_shards(sizes, self._block_bytes)
            except StreamerError as error:
                failed(error)
            else:
                then(tuple(self._enter_object(session, shard) for shard in stored))

        self._fleet.submit(job, answered, limit_s=LISTING_WAIT_S)

    def _enter_object(self, session: Session, stored: StoredShard) -> FoundShard:
        identity = stored.identity
        if not stored.validated:
            self._unvalidated += 1
            identity = f"{identity} unvalidated {self._unvalidated}"
        key = ShardKey(stored.uri, identity)
        self._shards.enter(key, stored, Name(session.uid, 0, stored.uri))
        return FoundShard(key, stored.uri, stored)


def _path_error(message: Open | Prefetch) -> ProtocolMismatch | None:
    """Why a request that handed no files over names something else than objects."""
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
        StreamerError: what the worker met, as the class it was there.
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


def specs_of(shards: Sequence[FoundShard]) -> tuple[ShardSpec, ...]:
    """The shards as the core hears of them."""
    return tuple(
        ShardSpec(
            shard.key,
            shard.stored.size_bytes,
            is_remote(shard.stored.uri),
            transient=not shard.stored.validated,
        )
        for shard in shards
    )
