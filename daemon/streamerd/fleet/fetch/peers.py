"""The fleet as one fetch worker knows it: its terms, its members, and how its peers behave.

This module makes a reader for each shard. The worker's receiving thread brings news of members, and
the threads of the lane for peers read.
"""

from __future__ import annotations

import threading
import time
from typing import Final, assert_never

from streamer_client.contract.errors import StreamerError
from streamer_client.storage.contract import Arrived, StoredShard
from streamerd.fleet.fetch.asking import Asking, context_for
from streamerd.fleet.plan.events import AnyEvent, Ask, Command, Done, Pause, PauseOver, ReadStore
from streamerd.fleet.plan.ranking import BlockName
from streamerd.fleet.plan.search import Rules, Search, View
from streamerd.fleet.plan.standing import Standing
from streamerd.fleet.wire import shard_name
from streamerd.settings.fleet import Terms


class NotFromPeers(StreamerError):
    """The block must be read from the store instead.

    Args:
        reason: the `reason` of the plan's `ReadStore`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"read the store: {reason}")
        self.reason = reason


class Peers:
    """The peers of this node, as one worker asks them. Thread-safe.

    Args:
        terms: the terms of this node's fleet.

    Raises:
        ConfigError: a certificate cannot be used.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms: Final = terms
        self._asking = Asking(terms.name, context_for(terms.certificates))
        self._rules = Rules(wait_s=terms.wait_s, longest_wait_s=3 * terms.wait_s)
        self._lock = threading.Lock()
        self._standing = Standing()
        self._view = View.of("", frozenset())

    def know(self, me: str, members: frozenset[str]) -> None:
        """Replace the members of the fleet; `me` is this node's address among them."""
        with self._lock:
            self._view = View.of(me, members)
            self._standing.keep_only(members)

    def reader(self, shard: StoredShard) -> PeerReader:
        """A reader of an object that its load's own credentials were allowed to open."""
        return PeerReader(self, shard)

    def fetch(self, block: BlockName, target: memoryview) -> None:
        """Receive a block from a peer that has it.

        Raises:
            NotFromPeers: the plan says to read the store.
        """
        with self._lock:
            view = self._view
            search = Search(block, self._standing, self._rules, time.monotonic())
            command = search.begin(view)
        while True:
            event = self._carried_out(command, view.me, block, target)
            if event is None:
                return
            with self._lock:
                # The view may have newer members now. This node's name in it is settled once, so a
                # search can go on with a new view.
                view = self._view
                command = search.told(event, view)

    def _carried_out(
        self, command: Command, me: str, block: BlockName, target: memoryview
    ) -> AnyEvent | None:
        match command:
            case Ask():
                return self._asking.ask(command, me, block, target)
            case Pause(wait_s):
                time.sleep(wait_s)
                return PauseOver(time.monotonic())
            case Done():
                return None
            case ReadStore(reason):
                raise NotFromPeers(reason)
            case _ as unknown:
                assert_never(unknown)

    def close(self) -> None:
        """Close the idle connections."""
        self._asking.close()


class PeerReader:
    """One object, read from peers; a `storage.contract.Reader` whose reads may end at the store."""

    piece_bytes = 0
    retries = 0

    def __init__(self, peers: Peers, shard: StoredShard) -> None:
        self._peers = peers
        self._name = shard_name(shard)

    def readinto(self, buffer: memoryview, start: int, arrived: Arrived | None = None) -> int:
        """Fill the whole of `buffer`, which is one block, from byte `start` on.

        Args:
            buffer: may be written more than once, by one peer after the other.
            start: offset in the object of the first byte of `buffer`.
            arrived: called once, with the whole block, after its checksum was found right.

        Returns:
            The buffer's length: all of it came over the network.

        Raises:
            NotFromPeers: the block is to be read from the store; the buffer may have been written.
        """
        target = buffer.cast("B")
        self._peers.fetch(BlockName(self._name, start, start + len(target)), target)
        if arrived:
            arrived(target)
        return len(target)

    def close(self) -> None:
        """Do nothing, since `Peers` owns the connections. Idempotent."""
