"""Handles clients' messages about their loads: open, want, consumed, release, close.

This module owns the opens whose shards are still being found, and the bounds on one client's loads.
It checks each message; the core decides what follows from the message. Runs in the daemon's loop.
"""

from __future__ import annotations

from streamer_client.contract import messages
from streamer_client.contract.errors import ProtocolMismatch, RequestRefused, StreamerError
from streamer_client.contract.layout import BlockRange, block_count
from streamer_client.contract.limits import MAX_LOADS, MAX_REQUESTS
from streamerd.answering.files.local_files import FoundShard
from streamerd.answering.openings import Openings, specs_of
from streamerd.answering.requests import Replies, Requests
from streamerd.control.sessions import Session
from streamerd.service.answers import Answers
from streamerd.service.views import Events, ModelView
from streamerd.state import events
from streamerd.state.events import LoadKey
from streamerd.workers.in_daemon.environments import Environments


class Loads:
    """Handles clients' messages about their loads.

    Args:
        replies: answers opens that fail.
        model: the loads that the core knows.
        posted: takes the events that messages become.
        openings: finds shards.
        answers: the opens that await the core's decision.
        environments: the environments that loads' clients sent.
        block_bytes: size of a block.
    """

    def __init__(
        self,
        replies: Replies,
        model: ModelView,
        posted: Events,
        openings: Openings,
        answers: Answers,
        environments: Environments,
        block_bytes: int,
    ) -> None:
        self._replies = replies
        self._model = model
        self._events = posted
        self._openings = openings
        self._answers = answers
        self._environments = environments
        self._block_bytes = block_bytes
        self._finding: dict[LoadKey, int] = {}
        """The loads whose shards are being found, each with the number of its request."""

    def register(self, requests: Requests) -> None:
        """Register the handlers of these messages in the table."""
        requests.on(messages.Open, self._open)
        requests.on(messages.Want, self._want)
        requests.on(messages.Consumed, self._consumed)
        requests.on(messages.ReleaseShards, self._release)
        requests.on(messages.Close, self._close)
        requests.on(messages.Renew, self._renew)

    def gone(self, session: Session) -> None:
        """Drop the opens and end the loads of a client that left or died."""
        for key in [key for key in self._finding if key.owner == session.name]:
            del self._finding[key]
        for key in self._answers.awaited:
            if key.owner == session.name:
                self._answers.forget(key)
        self._events.post(events.OwnerGone(self._events.now_s, session.name))

    # --- opening --------------------------------------------------------------------------------

    def _open(self, session: Session, message: messages.Open) -> None:
        key = LoadKey(session.name, message.load)
        self._refuse_too_many(key)
        self._finding[key] = message.request_id

        def found(shards: tuple[FoundShard, ...]) -> None:
            if self._finding.get(key) == message.request_id:  # the load was not closed meanwhile
                del self._finding[key]
                self._begin(session, key, message, shards)

        def failed(error: StreamerError) -> None:
            if self._finding.get(key) == message.request_id:  # else its number may be reused
                del self._finding[key]
            self._replies.refuse(session, message, error)

        self._openings.find(session, key, message, found, failed)

    def _refuse_too_many(self, key: LoadKey) -> None:
        """Refuse an open that would exceed the bounds on one client's loads.

        Raises:
            ProtocolMismatch: this load is open already.
            RequestRefused: the client has too many loads.
        """
        opening, known = self._finding.keys() | self._answers.awaited, self._model.loads
        if key in opening or key in known:
            raise ProtocolMismatch(f"load {key.number} of this connection is open already")
        mine = sum(each.owner == key.owner for each in opening)
        if mine >= MAX_REQUESTS:
            raise RequestRefused(
                f"{mine} loads of this client are being opened, and no more may be at once; "
                "wait until some are open"
            )
        loads = sum(each.owner == key.owner for each in known)
        if loads >= MAX_LOADS:
            raise RequestRefused(
                f"{loads} loads of this client are open, and no more may be; close some first"
            )

    def _begin(
        self,
        session: Session,
        key: LoadKey,
        message: messages.Open,
        shards: tuple[FoundShard, ...],
    ) -> None:
        wants_all = message.want == "all"
        sizes = [shard.stored.size_bytes if wants_all else 0 for shard in shards]
        wants = tuple(
            BlockRange(index, 0, block_count(size_bytes, self._block_bytes))
            for index, size_bytes in enumerate(sizes)
        )
        event = events.LoadOpened(
            self._events.now_s,
            key,
            specs_of(shards),
            wants,
            message.options,
        )
        self._openings.begin(session, event, message, shards)

    # --- while it is open -----------------------------------------------------------------------

    def _want(self, session: Session, message: messages.Want) -> None:
        self._post_blocks(session, message, events.WantsReplaced)

    def _consumed(self, session: Session, message: messages.Consumed) -> None:
        self._post_blocks(session, message, events.BlocksConsumed)

    def _post_blocks(
        self,
        session: Session,
        message: messages.Want | messages.Consumed,
        event: type[events.BlocksConsumed | events.WantsReplaced],
    ) -> None:
        load = self._model.loads.get(LoadKey(session.name, message.load))
        if load is None:
            return  # the load was closed or failed while this message was on its way
        shards = load.shards
        for index, start, stop in message.ranges:
            known = 0 <= index < len(shards)
            if not known or not 0 <= start <= stop <= shards[index].blocks:
                raise ProtocolMismatch(
                    f"load {message.load} has no blocks {start}-{stop} of {index}"
                )
        self._events.post(event(self._events.now_s, load.key, message.ranges))

    def _release(self, session: Session, message: messages.ReleaseShards) -> None:
        key, shards = LoadKey(session.name, message.load), message.shards
        load = self._model.loads.get(key)
        if load is not None and all(0 <= index < len(load.shards) for index in shards):
            self._events.post(events.ShardsReleased(self._events.now_s, key, shards))

    def _renew(self, session: Session, message: messages.Renew) -> None:
        key = LoadKey(session.name, message.load)
        if key in self._environments:
            newer = self._environments.renew(key, message.environment)
            self._events.post(events.CredentialsRenewed(self._events.now_s, key, newer))

    def _close(self, session: Session, message: messages.Close) -> None:
        key = LoadKey(session.name, message.load)
        self._finding.pop(key, None)
        self._answers.forget(key)
        self._events.post(events.LoadClosed(self._events.now_s, key))
