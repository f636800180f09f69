"""When the core decides: on the events of one round of the loop together, and on
requests at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from unittest import mock

import pytest
from tests.support.in_loop import in_loop, until

from streamerd.service.turns import TURN_GAP_S, Turns
from streamerd.state.commands import AnyCommand
from streamerd.state.core import Core
from streamerd.state.events import LimitChanged, Tick
from streamerd.state.model import Rules

BLOCK = 64 << 10


class Carried:
    """The turns of a core; nobody carries the commands out."""

    def __init__(self) -> None:
        self.turns = Turns(Core(64 * BLOCK, Rules(BLOCK, 2)))
        self.times: list[float] = []
        self.turns.attach(self._carry_out)

    def _carry_out(self, _commands: Sequence[AnyCommand]) -> None:
        self.times.append(self.turns.now_s)

    @property
    def limit_bytes(self) -> int:
        return self.turns.model.ledger.limit_bytes


@in_loop
async def test_events_of_one_round_are_decided_on_together() -> None:
    carried = Carried()
    for limit_bytes in (1, 2, 3):
        carried.turns.post(LimitChanged(carried.turns.now_s, limit_bytes))
    assert carried.times == []
    await until(lambda: carried.times)
    assert (len(carried.times), carried.limit_bytes) == (1, 3)


@in_loop
async def test_turns_have_a_gap_between_them() -> None:
    carried = Carried()
    turned_from_s = carried.turns.now_s
    carried.turns.decide()
    with mock.patch.object(asyncio.get_running_loop(), "call_at") as call_at:
        carried.turns.post(Tick(carried.turns.now_s))
        carried.turns.post(Tick(carried.turns.now_s))
    call_at.assert_called_once()
    due_s = call_at.call_args.args[0]
    assert turned_from_s + TURN_GAP_S <= due_s <= carried.times[0] + TURN_GAP_S


@in_loop
async def test_a_decision_is_made_at_once_with_all_that_waits() -> None:
    carried = Carried()
    carried.turns.post(LimitChanged(carried.turns.now_s, 1))
    carried.turns.decide(LimitChanged(carried.turns.now_s, 2))
    assert (len(carried.times), carried.limit_bytes) == (1, 2)


@in_loop
async def test_time_that_passes_is_no_change() -> None:
    turns = Carried().turns
    turns.decide(Tick(turns.now_s))
    turns.decide()
    assert turns.changes == 0
    turns.decide(Tick(turns.now_s), LimitChanged(turns.now_s, 1))
    assert turns.changes == 1


@in_loop
async def test_a_turn_without_a_carrier_is_a_defect() -> None:
    turns = Turns(Core(64 * BLOCK, Rules(BLOCK, 2)))
    with pytest.raises(RuntimeError, match="before anybody was attached"):
        turns.decide()
    await asyncio.sleep(0)
