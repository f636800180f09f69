"""Answers the questions of peers from the blocks that are resident and proven.

Serving a block makes no lease and no claim, and does not count as a use for eviction. The fleet's
process gets a descriptor of the slab, and the block may be released while it is sent. The receiver
then finds that by the checksum. Runs in the daemon's loop, and only reads.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from streamer_client.contract.layout import block_span
from streamer_client.contract.uris import is_remote
from streamerd.fleet.wire import shard_name
from streamerd.peering.messages import Holding, Look, NotHeld
from streamerd.reading.backing import Backing
from streamerd.service.shards import Shards
from streamerd.service.slabs import Slabs
from streamerd.service.views import ModelView
from streamerd.state.events import AnyEvent, BlockFetched, ShardKey
from streamerd.state.lifecycle import BlockState

MOST_WAITING: Final = 1024
"""The most questions whose answer waits for a block. Further questions are answered at once."""


class Reply(NamedTuple):
    """An answer, and the descriptor that is sent with it; -1 for none."""

    message: Holding | NotHeld
    fd: int = -1


Send = Callable[[Reply], None]
"""Sends an answer; closes its descriptor after the process has received it."""


@dataclass(slots=True)
class _Waiting:
    look: Look
    timer: asyncio.TimerHandle | None = field(default=None)


class Lookups:
    """The questions of the fleet's process.

    Args:
        model: tells which blocks are resident or awaited.
        shards: the backings of the shards.
        slabs: opens slabs for reading.
        from_store: the blocks that are being read from the store.
        block_bytes: size of a block.
        send: sends answers.
    """

    def __init__(
        self,
        model: ModelView,
        shards: Shards,
        slabs: Slabs,
        from_store: Container[tuple[ShardKey, int]],
        block_bytes: int,
        send: Send,
    ) -> None:
        self._model = model
        self._shards = shards
        self._slabs = slabs
        self._from_store = from_store
        self._block_bytes = block_bytes
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._known: tuple[ShardKey, ...] = ()
        self._names: dict[str, ShardKey] = {}
        self._waiting: dict[tuple[ShardKey, int], dict[int, _Waiting]] = {}
        self._count = 0

    def look(self, look: Look) -> None:
        """Answer a question: now, when its block is resident, or when its waiting time is over."""
        key = self._key(look.shard)
        block = -1 if key is None else self._block(key, look)
        if key is None or block < 0:
            self._send(Reply(NotHeld(look.number, awaited=False, known=key is not None)))
            return
        reply = self._reply(key, block, look)
        awaited = isinstance(reply.message, NotHeld) and reply.message.awaited
        if awaited and look.wait_s > 0.0 and self._count < MOST_WAITING:
            self._wait(key, block, look)
        else:
            self._send(reply)

    def turned(self, happened: Iterable[AnyEvent]) -> None:
        """Answer the questions that waited for blocks which arrived in this turn of the core."""
        if not self._waiting:
            return
        for event in happened:
            if isinstance(event, BlockFetched):
                waiting = self._waiting.pop((event.shard, event.block), {})
                for each in waiting.values():
                    self._end(each)
                    self._send(self._reply(event.shard, event.block, each.look))

    def forget(self) -> None:
        """Drop all questions, since the process that asked them is gone."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting.values():
            for one in each.values():
                self._end(one)

    # --- steps ----------------------------------------------------------------------------------

    def _key(self, name: str) -> ShardKey | None:
        """The shard of this name. The table of names is made anew only if the shards changed."""
        key = self._names.get(name)
        if key is not None and key in self._model.shards:
            return key
        known = tuple(self._model.shards)
        if known != self._known:
            self._known = known
            self._names = {_name(key, self._shards.backings.get(key)): key for key in known}
        return self._names.get(name)

    def _block(self, key: ShardKey, look: Look) -> int:
        """The number of the block that is asked for; -1 if the range is no block of the shard."""
        size_bytes = self._shards.backings[key].stored.size_bytes
        block = look.start // self._block_bytes
        if look.start >= size_bytes:
            return -1
        span = block_span(block, size_bytes, self._block_bytes)
        return block if span == (look.start, look.stop) else -1

    def _reply(self, key: ShardKey, block: int, look: Look) -> Reply:
        shard, backing = self._model.shards.get(key), self._shards.backings.get(key)
        if shard is None or backing is None or shard.error is not None:
            return Reply(NotHeld(look.number, awaited=False, known=False))
        if shard.states[block] == BlockState.RESIDENT:
            fd = self._opened(backing)
            if fd >= 0:
                return Reply(Holding(look.number, backing.checksums[block]), fd)
        fetching = shard.states[block] == BlockState.FETCHING
        awaited = fetching or (bool(shard.loads) and shard.claims[block] > 0)
        coming = awaited and (key, block) in self._from_store
        return Reply(NotHeld(look.number, awaited, known=True, coming=coming))

    def _opened(self, backing: Backing) -> int:
        """A descriptor of a slab, which the caller closes; -1 if none can be opened now."""
        if not backing.slab_name:
            return -1
        try:
            opened = self._slabs.opened_for_client(backing)
            return opened.descriptor if opened.close else os.dup(opened.descriptor)
        except OSError:
            return -1

    def _wait(self, key: ShardKey, block: int, look: Look) -> None:
        waiting = _Waiting(look)
        self._waiting.setdefault((key, block), {})[look.number] = waiting
        self._count += 1
        waiting.timer = self._loop.call_later(look.wait_s, self._expired, key, block, look.number)

    def _expired(self, key: ShardKey, block: int, number: int) -> None:
        waiting = self._waiting.get((key, block), {})
        each = waiting.pop(number, None)
        if not waiting:
            self._waiting.pop((key, block), None)
        if each is not None:
            self._end(each)
            self._send(self._reply(key, block, each.look))

    def _end(self, waiting: _Waiting) -> None:
        self._count -= 1
        if waiting.timer is not None:
            waiting.timer.cancel()


def _name(key: ShardKey, backing: Backing | None) -> str:
    """The name by which peers ask for a shard.

    A file of this node, or an object without a validator, is not shared with other nodes. Such a
    shard gets a name that no peer asks for.
    """
    if backing is None or not is_remote(key.uri) or not backing.stored.validated:
        return f"{key.uri}\0{key.identity}"
    return shard_name(backing.stored)
