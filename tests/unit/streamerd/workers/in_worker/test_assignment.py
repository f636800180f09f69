"""A job is given up only when its time is over, and never while it writes or may write
at any time.
"""

from __future__ import annotations

import pytest

from streamerd.workers.in_worker.assignment import TRY_AGAIN_S, Assignment, GivenUp, Unyielding
from streamerd.workers.jobs import CloseSlab

LIMIT_S = 10.0


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(clock: Clock) -> Assignment:
    return Assignment(CloseSlab(1, 1), (), clock)


def test_its_time_runs_from_when_a_thread_has_it(made: Assignment, clock: Clock) -> None:
    clock.now_s += 50.0
    assert made.give_up(LIMIT_S) == LIMIT_S
    made.begin()
    clock.now_s += 4.0
    assert made.give_up(LIMIT_S) == 6.0
    clock.now_s += 6.0
    assert made.give_up(LIMIT_S) == 0.0
    assert not made.finish()
    with pytest.raises(GivenUp), made.writing():
        pass
    with pytest.raises(GivenUp):
        made.hold_on()


def test_what_writes_is_asked_again(made: Assignment, clock: Clock) -> None:
    made.begin()
    clock.now_s += LIMIT_S
    with made.writing():
        assert made.give_up(LIMIT_S) == TRY_AGAIN_S
    assert made.give_up(LIMIT_S) == 0.0


def test_what_may_write_at_any_time_is_not_given_up(made: Assignment, clock: Clock) -> None:
    made.begin()
    made.hold_on()
    clock.now_s += LIMIT_S
    with pytest.raises(Unyielding):
        made.give_up(LIMIT_S)
    assert made.finish()


def test_what_was_answered_is_left_alone(made: Assignment, clock: Clock) -> None:
    made.begin()
    assert made.finish()
    clock.now_s += LIMIT_S
    assert made.give_up(LIMIT_S) is None
