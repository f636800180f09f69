"""The life of one block, as one table of the moves that are legal.

`docs/state.md` holds the diagram generated from this table
(`make diagrams`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class BlockState(IntEnum):
    """States of a block; small integers, since a shard stores one byte for each block."""

    ABSENT = 0
    """The block has no memory."""
    FETCHING = 1
    """The block is reserved in the ledger; a worker backs and reads it."""
    RESIDENT = 2
    """The block's bytes are in the slab."""
    RELEASING = 3
    """A worker gives the block's memory back. The block stays reserved until that is done."""
    UNPROVEN = 4
    """A daemon that was killed left the block. It may be granted once its checksum was found
    right."""


class Trigger(IntEnum):
    """The causes that move a block from one state to the next."""

    RESERVE = 0
    FETCHED = 1
    NOT_BACKED = 2
    BROKEN = 3
    RELEASE = 4
    RELEASED = 5
    ADOPT = 6
    PROVEN = 7
    REFUTED = 8


TRANSITIONS: Final[dict[tuple[int, int], BlockState]] = {
    (BlockState.ABSENT, Trigger.RESERVE): BlockState.FETCHING,
    (BlockState.FETCHING, Trigger.FETCHED): BlockState.RESIDENT,
    # ENOSPC: the worker reserved nothing, so there is nothing to give back.
    (BlockState.FETCHING, Trigger.NOT_BACKED): BlockState.ABSENT,
    # After an error or the death of a worker the block may have memory, whatever its content.
    (BlockState.FETCHING, Trigger.BROKEN): BlockState.RELEASING,
    (BlockState.RESIDENT, Trigger.RELEASE): BlockState.RELEASING,
    (BlockState.RELEASING, Trigger.RELEASED): BlockState.ABSENT,
    (BlockState.ABSENT, Trigger.ADOPT): BlockState.UNPROVEN,
    (BlockState.UNPROVEN, Trigger.PROVEN): BlockState.RESIDENT,
    (BlockState.UNPROVEN, Trigger.REFUTED): BlockState.RELEASING,
}


class InvalidTransition(AssertionError):
    """A block got a trigger that its state does not allow: a defect of the daemon."""


def next_state(state: int, trigger: Trigger, uri: str = "", block: int = 0) -> BlockState:
    """The state after `trigger`; `uri` and `block` are for the text of the error alone.

    Raises:
        InvalidTransition: the table has no such move; nothing has changed.
    """
    new = TRANSITIONS.get((state, trigger))
    if new is None:
        raise InvalidTransition(f"{uri, block}: {BlockState(state).name} cannot {trigger.name}")
    return new
