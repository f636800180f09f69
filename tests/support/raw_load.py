"""One load of a raw client: the blocks that are granted now, and the bytes that were read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from streamer_client.contract.layout import BlockRange, block_count, block_span
from streamer_client.contract.messages import (
    Close,
    Consumed,
    Drop,
    Open,
    Opened,
    OpenedShard,
    ShardFailed,
    Waiting,
    Want,
)
from streamer_client.contract.uris import is_remote
from tests.support.load_fields import load_fields

if TYPE_CHECKING:
    from tests.support.raw_client import RawClient


Block = tuple[int, int]
"""A shard number and a block number."""


class RawLoad:
    """One load of a raw client: the blocks that are granted now, and the bytes that were read.

    A local source is opened here and handed over first, unless `options` name a transfer.
    """

    def __init__(self, client: RawClient, source: str, **options: object) -> None:
        self.client = client
        self.number = client.next_id()
        self.granted: set[Block] = set()
        self.shards: tuple[OpenedShard, ...] = ()
        self.slabs: dict[int, int] = {}
        """The descriptor of each shard's slab, by shard number, as far as they were received."""
        self.compared = True
        self.is_closed = False
        self.read: dict[Block, bytes] = {}
        message = Open(request_id=client.next_id(), load=self.number, source=source)
        message = msgspec.structs.replace(message, **load_fields(options))
        named = message.files[0] if message.files else source
        if not message.transfer and not is_remote(named):
            transfer = client.hand_over_source(source, message.pattern, message.files)
            message = msgspec.structs.replace(message, transfer=transfer, files=None, pattern=None)
        self.transfer = message.transfer
        client.loads[self.number] = self
        client.send(message)

    def waiting(self) -> Waiting:
        """The next report that the load waits for memory."""
        report = self.client.expect(Waiting)
        assert report.load == self.number
        return report

    def opened(self) -> RawLoad:
        message = self.client.expect(Opened)
        assert message.load == self.number
        self.answer = message
        self.shards, self.block_bytes = message.shards, message.block_bytes
        self.compared = message.compared
        self.note(message.granted)
        self._drop()
        return self

    @property
    def held(self) -> bool:
        return all(shard.held for shard in self.shards)

    @property
    def blocks(self) -> set[Block]:
        """Every block of every shard."""
        return {
            (number, block)
            for number, shard in enumerate(self.shards)
            for block in range(block_count(shard.size_bytes, self.block_bytes))
        }

    def note(self, ranges: Iterable[BlockRange]) -> None:
        for shard, start, stop in ranges:
            self.granted.update((shard, block) for block in range(start, stop))

    def await_grants(self, count: int) -> set[Block]:
        """Receive until so many blocks are granted at once."""
        while len(self.granted) < count:
            message = self.client.listen()
            assert not isinstance(message, ShardFailed), message
        return self.granted

    def want(self, *ranges: tuple[int, int, int]) -> None:
        self.client.send(Want(self.number, tuple(BlockRange(*item) for item in ranges)))

    def consume(self, blocks: Iterable[Block]) -> None:
        """Read granted blocks, then give them back."""
        blocks = sorted(blocks)
        for block in blocks:
            assert block in self.granted
            self.read[block] = self.bytes_of(*block)
        self.give_back(blocks)

    def give_back(self, blocks: Iterable[Block]) -> None:
        """Tell the daemon that blocks are consumed, whether they were read or not."""
        ranges = tuple(BlockRange(shard, block, block + 1) for shard, block in blocks)
        self.granted.difference_update(blocks)
        self.client.send(Consumed(self.number, ranges))

    def slab(self, shard: int) -> int:
        """The descriptor of a shard's slab; waits until the slab was handed out."""
        while shard not in self.slabs:
            self.client.next_packet()
        return self.slabs[shard]

    def bytes_of(self, shard: int, block: int) -> bytes:
        """The bytes of a block in the slab now."""
        start, stop = block_span(block, self.shards[shard].size_bytes, self.block_bytes)
        return os.pread(self.slab(shard), stop - start, start)

    def await_compared(self) -> None:
        """Receive until the granted blocks are known to equal the files."""
        while not self.compared:
            message = self.client.listen()
            assert not isinstance(message, ShardFailed), message

    def read_all(self, between: Callable[[], object] = lambda: None) -> list[bytes]:
        """Consume blocks as they are granted until all were read once; return the shards' bytes."""
        while missing := self.blocks - self.read.keys():
            self.await_grants(1)
            fresh = self.granted & missing
            assert fresh, "granted what was read before"
            self.consume(fresh)
            between()
        return [self.shard_bytes(number) for number in range(len(self.shards))]

    def shard_bytes(self, number: int) -> bytes:
        return b"".join(self.read[key] for key in sorted(self.read) if key[0] == number)

    def close(self) -> None:
        self.client.send(Close(self.number))
        self._drop()
        self.is_closed = True
        self.close_slabs()

    def _drop(self) -> None:
        if self.transfer:
            self.client.send(Drop(self.transfer))
            self.transfer = 0

    def close_slabs(self) -> None:
        while self.slabs:
            os.close(self.slabs.popitem()[1])
