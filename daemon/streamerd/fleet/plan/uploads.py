"""Decides the answer to a peer that asks for a block: the block, another holder, or to wait.

A node hands over few blocks at once, so that each arrives fast and can be passed on early. The node
remembers which peers got a block from it. While all its uploads are busy, it sends further peers to
those holders.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from streamerd.fleet.plan.ranking import BlockName

REMEMBERED_BLOCKS: Final = 4096
"""Number of blocks for which the peers that got them are remembered."""
REMEMBERED_HOLDERS: Final = 8
"""Number of peers that are remembered for each block: the last ones that got it."""


@dataclass(frozen=True, slots=True)
class Give:
    """Send the block; then call `Uploads.ended`."""


@dataclass(frozen=True, slots=True)
class SendTo:
    """Name this peer, which has the block (307)."""

    holder: str


@dataclass(frozen=True, slots=True)
class Later:
    """Let the peer ask again (503)."""

    holds: bool
    """Whether this node has the block and is only busy."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """This node does not have the block and will not get it (404)."""


Reply = Give | SendTo | Later | Nothing


class Uploads:
    """The uploads of one node. Not thread-safe.

    Args:
        slots: how many blocks may be handed over at once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._under_way = 0
        self._holders: OrderedDict[BlockName, deque[str]] = OrderedDict()

    @property
    def under_way(self) -> int:
        """Number of blocks that are being handed over."""
        return self._under_way

    def asked(self, peer: str, block: BlockName, *, held: bool, awaited: bool) -> Reply:
        """Decide the answer to a peer's question.

        Args:
            peer: the fleet's name for the node that asks.
            block: the block that the peer asks for.
            held: whether this node has the block.
            awaited: whether this node is going to get the block, if it does not have it.
        """
        if not held:
            return Later(holds=False) if awaited else Nothing()
        if self._under_way < self._slots:
            self._under_way += 1
            return Give()
        holders = self._holders.get(block)
        if holders is None or all(holder == peer for holder in holders):
            return Later(holds=True)
        # The next question gets another holder, so that questions spread over all of them.
        holders.rotate(1)
        if holders[0] == peer:
            holders.rotate(1)
        return SendTo(holders[0])

    def ended(self, peer: str, block: BlockName, *, whole: bool) -> None:
        """Note that an upload ended; `whole` is false if the connection broke before its end."""
        self._under_way -= 1
        if not whole:
            return
        holders = self._holders.setdefault(block, deque(maxlen=REMEMBERED_HOLDERS))
        if peer not in holders:
            holders.append(peer)
        self._holders.move_to_end(block)
        while len(self._holders) > REMEMBERED_BLOCKS:
            self._holders.popitem(last=False)
