"""The two columns of the ledger: used and committed."""

from __future__ import annotations

import pytest

from streamerd.state.model import Ledger


def test_room_is_what_is_not_used() -> None:
    ledger = Ledger(100, used_bytes=60)
    assert ledger.room_for(40)
    assert not ledger.room_for(41)


def test_what_is_being_released_counts_as_used_but_not_as_missing() -> None:
    ledger = Ledger(100, used_bytes=90, releasing_bytes=30)
    assert not ledger.room_for(20)
    assert ledger.shortage(20) == -20
    assert ledger.shortage(50) == 10


def test_promises_are_kept_apart_from_memory() -> None:
    ledger = Ledger(100, used_bytes=100, committed_bytes=70)
    assert ledger.can_commit(30)
    assert not ledger.can_commit(31)


@pytest.mark.parametrize(("squeezed_to", "usable"), [(None, 100), (40, 40), (140, 100)])
def test_a_full_mount_squeezes_but_never_widens(squeezed_to: int | None, usable: int) -> None:
    ledger = Ledger(100, squeezed_to_bytes=squeezed_to)
    assert ledger.usable_bytes == usable
    assert ledger.room_for(usable)
    assert not ledger.room_for(usable + 1)


@pytest.mark.parametrize(("committed", "growth"), [(0, 75), (75, 0), (100, -25)])
def test_windows_grow_to_three_quarters(committed: int, growth: int) -> None:
    assert Ledger(100, committed_bytes=committed).growth_bytes == growth
