"""Does what `Open` and `Prefetch` have in common: finds shards, and gives loads to the core.

The shards are files that a client handed over, or objects that `objects.py` finds. This module owns
no state. Runs in the daemon's loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamer_client.contract.messages import Open, Prefetch
from streamer_client.contract.uris import is_remote
from streamerd.answering.files.handovers import Handed, Handovers
from streamerd.answering.files.local_files import FoundShard, LocalFiles
from streamerd.answering.objects import Found, NotFound, Objects
from streamerd.control.sessions import Session
from streamerd.service.answers import Answers, Ticket
from streamerd.service.views import Events
from streamerd.state.events import LoadKey, LoadOpened, ShardSpec
from streamerd.workers.in_daemon.environments import Environments


class Openings:
    """Finds shards and gives loads to the core.

    Args:
        events: takes the event that a load was opened.
        objects: finds objects of stores.
        files: enters local files.
        handovers: the files that clients handed over.
        answers: answers once the core has decided.
        environments: the environments that loads' clients sent.
    """

    def __init__(
        self,
        events: Events,
        objects: Objects,
        files: LocalFiles,
        handovers: Handovers,
        answers: Answers,
        environments: Environments,
    ) -> None:
        self._events = events
        self._objects = objects
        self._files = files
        self._handovers = handovers
        self._answers = answers
        self._environments = environments

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
            self._objects.find(session, message, then, failed)

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
        self._objects.opened(event.load, message.environment, shards)
        self._events.post(event)


def specs_of(shards: Sequence[FoundShard]) -> tuple[ShardSpec, ...]:
    """The shards in the form that the event for the core has."""
    return tuple(
        ShardSpec(
            shard.key,
            shard.stored.size_bytes,
            is_remote(shard.stored.uri),
            transient=not shard.stored.validated,
        )
        for shard in shards
    )
