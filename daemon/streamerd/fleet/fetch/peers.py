"""The fleet as one fetch worker knows it: terms, members, what was learned of peers.

Makes a reader for each shard. The receiving thread brings news of members; the threads of the
peers' lane read.
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
    """The block is to be read from the store.

    Args:
        reason: as `ReadStore` has it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"read the store: {reason}")
        self.reason = reason


class Peers:
    """Thread-safe.

    Args:
        terms: of this node's fleet.

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
        """The fleet has these members now."""
        with self._lock:
            self._view = View.of(me, members)
            self._standing.keep_only(members)

    def reader(self, shard: StoredShard) -> PeerReader:
        """A reader of an object whose opening passed with its load's own credentials."""
        return PeerReader(self, shard)

    def fetch(self, block: BlockName, target: memoryview) -> None:
        """Receive a block from whoever has it.

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
                # Searches of one block keep this node's name, which is settled once.
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
            start: place of its first byte in the object.
            arrived: called once, with the whole block, when it has been proven.

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
        """Do nothing: connections belong to the peers. Idempotent."""
