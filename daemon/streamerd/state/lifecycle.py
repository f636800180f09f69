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
    """No memory behind it."""
    FETCHING = 1
    """Reserved in the ledger; a worker backs and reads it."""
    RESIDENT = 2
    """Its bytes are in the slab."""
    RELEASING = 3
    """A worker gives its memory back; reserved until that is done."""
    UNPROVEN = 4
    """Left by a daemon that was killed; a worker compares it with its checksum before it counts."""


class Trigger(IntEnum):
    """What moves a block."""

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
    # An error or a dead worker: pages may lie behind the block, whatever their content.
    (BlockState.FETCHING, Trigger.BROKEN): BlockState.RELEASING,
    (BlockState.RESIDENT, Trigger.RELEASE): BlockState.RELEASING,
    (BlockState.RELEASING, Trigger.RELEASED): BlockState.ABSENT,
    (BlockState.ABSENT, Trigger.ADOPT): BlockState.UNPROVEN,
    (BlockState.UNPROVEN, Trigger.PROVEN): BlockState.RESIDENT,
    (BlockState.UNPROVEN, Trigger.REFUTED): BlockState.RELEASING,
}


class InvalidTransition(AssertionError):
    """A block got a trigger that its state does not allow: a defect of the daemon."""


def next_state(state: int, trigger: Trigger, where: object = "") -> BlockState:
    """The state after `trigger`.

    Raises:
        InvalidTransition: the table has no such move; nothing has changed.
    """
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise InvalidTransition(
            f"{where}: {BlockState(state).name} cannot {trigger.name}"
        ) from None
