"""A small crowd under a quarter of the memory; `make soak` has sixty-four clients."""

from __future__ import annotations

from tests.hostile.crowd import run


def test_a_crowd_that_opens_closes_evicts_pins_and_dies() -> None:
    outcome = run(seed=5, processes=2, threads=4, actions=6, killed=1)
    assert outcome.is_right, str(outcome)
    assert outcome.done["loads (daemon)"], str(outcome)
