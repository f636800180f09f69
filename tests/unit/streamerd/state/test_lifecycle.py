"""The table of one block's life; no other move can happen."""

from __future__ import annotations

from itertools import product

import pytest

from streamerd.state.events import ShardKey
from streamerd.state.lifecycle import (
    TRANSITIONS,
    BlockState,
    InvalidTransition,
    Trigger,
    next_state,
)
from streamerd.state.shard import Shard

BLOCK = 64 << 10
LEGAL = sorted(TRANSITIONS)
ILLEGAL = sorted(set(product(BlockState, Trigger)) - set(TRANSITIONS))


def in_state(state: BlockState) -> Shard:
    shard = Shard(ShardKey("/a", "1"), 2 * BLOCK + 1, BLOCK)
    shard.states[1] = state
    shard.resident_blocks = int(state is BlockState.RESIDENT)
    return shard


@pytest.mark.parametrize(("state", "trigger"), ILLEGAL)
def test_an_illegal_move_raises_and_changes_nothing(state: BlockState, trigger: Trigger) -> None:
    shard = in_state(state)
    before = (bytes(shard.states), shard.resident_bytes)
    with pytest.raises(InvalidTransition, match=rf"'/a', 1\): {state.name} cannot {trigger.name}"):
        shard.move(1, trigger)
    assert (bytes(shard.states), shard.resident_bytes) == before


@pytest.mark.parametrize(("state", "trigger"), LEGAL)
def test_a_legal_move_keeps_the_count_of_resident_bytes(
    state: BlockState, trigger: Trigger
) -> None:
    shard = in_state(state)
    new = shard.move(1, trigger)
    assert shard.states[1] == new == next_state(state, trigger)
    assert shard.resident_bytes == BLOCK * (new is BlockState.RESIDENT)
    assert (shard.states[0], shard.states[2]) == (BlockState.ABSENT, BlockState.ABSENT)


def test_memory_is_given_back_before_a_block_is_absent_again() -> None:
    """Only a fetch that backed no memory skips the release."""
    into_absent = {pair for pair, new in TRANSITIONS.items() if new is BlockState.ABSENT}
    assert into_absent == {
        (BlockState.FETCHING, Trigger.NOT_BACKED),
        (BlockState.RELEASING, Trigger.RELEASED),
    }


def test_resident_is_reached_by_a_fetch_or_a_proof_alone() -> None:
    assert [pair for pair, new in TRANSITIONS.items() if new is BlockState.RESIDENT] == [
        (BlockState.FETCHING, Trigger.FETCHED),
        (BlockState.UNPROVEN, Trigger.PROVEN),
    ]


def test_a_range_moves_as_its_blocks_would() -> None:
    one, all_at_once = in_state(BlockState.ABSENT), in_state(BlockState.ABSENT)
    for trigger in (Trigger.ADOPT, Trigger.PROVEN, Trigger.RELEASE):
        for block in range(3):
            one.move(block, trigger)
        all_at_once.move_range(0, 3, trigger)
        assert all_at_once.states == one.states
        assert all_at_once.resident_bytes == one.resident_bytes
