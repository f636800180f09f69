"""A feed over bytes in memory that is strict about passes, and checkpoints for it.

A block may be read only between `wait` and `consumed` of the running pass, or after a call of
`mapped` for it. Every other read fails the test.
"""

from __future__ import annotations

import json
import mmap
import threading
from collections.abc import Sequence
from typing import Final

from streamer_client.contract.layout import BlockRange
from streamer_client.copy.feed import FeedClosed, FeedShard, Route

BLOCK: Final = 64


def shard_of(tensors: dict[str, tuple[str, list[int], bytes]], padding: int = 0) -> bytes:
    """A safetensors file of `name: (dtype, shape, bytes)`; `padding` lengthens its header."""
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode() + b" " * padding
    return len(text).to_bytes(8, "little") + text + b"".join(one[2] for one in tensors.values())


def u8(data: bytes) -> tuple[str, list[int], bytes]:
    """A flat tensor of these bytes."""
    return "U8", [len(data)], data


class PaperFeed:
    """A `Feed` of the shards `/0`, `/1`, ...

    Args:
        files: the shards' bytes.
        mapped: how many blocks of each shard `mapped` hands out before it refuses.

    Attributes:
        passes: the order of each pass that was begun.
        consumed_blocks: blocks given back, in order.
    """

    resident_bytes = 0
    route = Route.DAEMON
    direct_bytes = 0
    threads = 2

    def __init__(self, *files: bytes, mapped: dict[int, int] | None = None) -> None:
        self.files = files
        self.shards = tuple(FeedShard(f"/{at}", len(file)) for at, file in enumerate(files))
        self.block_bytes = BLOCK
        self.read_ahead_bytes = 10 * BLOCK
        self.passes: list[tuple[BlockRange, ...]] = []
        self.consumed_blocks: list[tuple[int, int]] = []
        self.ended: list[int] = []
        self.lock = threading.Lock()
        self._mapped = mapped or {}
        self._running = 0
        self._wanted: set[tuple[int, int]] = set()
        self._readable: set[tuple[int, int]] = set()

    def begin(self, order: Sequence[BlockRange]) -> int:
        assert not self._running, "a pass was begun before the last one's end"
        self.passes.append(tuple(order))
        self._running = len(self.passes)
        self._wanted = {(shard, at) for shard, start, stop in order for at in range(start, stop)}
        self._readable = set()
        return self._running

    def end(self, number: int) -> None:
        with self.lock:
            self.ended.append(number)
            if number == self._running:
                self._running = 0
                self._readable = set()

    def wait(self, number: int, shard: int, block: int) -> None:
        with self.lock:
            if number != self._running:
                raise FeedClosed
            assert (shard, block) in self._wanted, f"block {block} of {shard} was not asked for"
            self._readable.add((shard, block))

    def read_into(self, buffers: Sequence[memoryview], shard: int, start: int) -> None:
        for buffer in buffers:
            stop = start + len(buffer)
            with self.lock:
                for block in range(start // BLOCK, -(-stop // BLOCK)):
                    assert (shard, block) in self._readable, f"block {block} may not be read"
            buffer[:] = self.files[shard][start:stop]
            start = stop

    def image(self, shard: int, block: int) -> None:
        del shard, block

    def consumed(self, number: int, shard: int, block: int) -> None:
        with self.lock:
            assert number == self._running
            self._wanted.remove((shard, block))
            self._readable.discard((shard, block))
            self.consumed_blocks.append((shard, block))

    def views(self, shard: int) -> bool:
        return self._mapped.get(shard, 0) > 0

    def mapped(self, shard: int, start: int, stop: int) -> mmap.mmap | None:
        if stop > self._mapped.get(shard, 0):
            return None
        self._readable |= {(shard, block) for block in range(start, stop)}
        mapping = mmap.mmap(-1, len(self.files[shard]))
        mapping[: stop * BLOCK] = self.files[shard][: stop * BLOCK]  # later bytes read as zeros
        return mapping

    def standing(self, number: int, span: BlockRange, *, wait: bool = True) -> None:
        del number, span, wait

    def settle(self) -> None: ...

    def close(self) -> None: ...

    @property
    def left_blocks(self) -> set[tuple[int, int]]:
        """Blocks of the last pass that were not given back."""
        return self._wanted
