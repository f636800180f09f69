"""Puts the nodes into an order for each block, by rendezvous hashing.

Each node's score for a block is a hash of the node's name and the block's name, and the scores give
the order. So every node finds the same order by itself, and a node that comes or goes changes the
order of no others. Each node is first for about the same number of blocks.

The order between two nodes never depends on which other nodes exist. A node only waits for nodes
before it in the order. So nodes whose lists of members differ can never wait for each other in a
circle.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import xxhash


class BlockName(NamedTuple):
    """A block of one content of an object, the same on each node that reads in such blocks."""

    shard: str
    """A digest of all that identifies the content: URI, endpoint and validator."""
    start: int
    """Offset of the first byte."""
    stop: int
    """Offset after the last byte."""


@lru_cache(maxsize=512)
def rank(nodes: tuple[str, ...], block: BlockName) -> tuple[str, ...]:
    """The nodes in their order for a block; the first is its owner, who reads it from the store.

    Args:
        nodes: names of members, each once, in any order.
        block: the block that they read.
    """
    seed = _seed(block)
    return tuple(name for _, name in sorted(_score(name, seed) for name in nodes))


def stands_before(node: str, other: str, block: BlockName) -> bool:
    """Whether `node` comes before `other` in the order for a block, whatever other nodes exist."""
    seed = _seed(block)
    return _score(node, seed) < _score(other, seed)


def _seed(block: BlockName) -> int:
    return xxhash.xxh3_64_intdigest(f"{block.shard} {block.start} {block.stop}".encode())


def _score(node: str, seed: int) -> tuple[int, str]:
    return xxhash.xxh3_64_intdigest(node.encode(), seed), node
