"""The table of a pass's routes: dialogues of triggers and commands, and rules for the
whole table.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer_client.contract.layout import BlockRange
from streamer_client.copy.feed import Route
from streamer_client.delivery.pass_state import (
    ROUTES,
    TRANSITIONS,
    Command,
    IllegalMove,
    PassProgress,
    PassState,
    State,
    Trigger,
)

S, T, C = State, Trigger, Command
Line = tuple[Trigger, tuple[Command, ...], State]


def play(*lines: Line) -> PassState:
    """Fire each trigger, and check its commands and the next state."""
    state = PassState()
    for trigger, commands, reached in lines:
        assert (trigger, state.move(trigger), state.state) == (trigger, commands, reached)
    return state


WARM: Line = (T.CACHE_WARM, (C.OPEN_PROMISED,), S.UNDECIDED)
COLD: Line = (T.WHOLE, (C.OPEN_ALL,), S.ASKED)
READ_CACHE: Line = (T.BEGUN_AS_OPENED, (C.READ_DIRECTLY, C.CLOSE_LOAD), S.PAGE_CACHE)


def test_a_cold_load_asks_for_everything_at_once_and_for_nothing_more() -> None:
    state = play(
        COLD,
        (T.BEGUN_AS_OPENED, (), S.DAEMON),
        (T.ENDED_WHOLE, (C.GIVE_BACK,), S.DAEMON),
        (T.BEGUN_PART, (C.WANT_FIRST,), S.DAEMON),
        (T.ENDED, (C.GIVE_BACK,), S.DAEMON),
        (T.CLOSE, (C.CLOSE_SOURCES,), S.CLOSED),
    )
    assert state.route is Route.DAEMON


def test_the_route_is_decided_before_the_daemon_is_asked_for_everything() -> None:
    state = play(WARM, READ_CACHE, (T.ENDED_WHOLE, (), S.PAGE_CACHE_READ))
    assert state.route is Route.PAGE_CACHE
    assert state.move(T.CLOSE) == (C.CLOSE_SOURCES, C.BRING_IN)
    assert state.route is Route.PAGE_CACHE, "the last way stays to be told"


def test_a_catalog_before_the_load_asks_for_the_headers_alone() -> None:
    play(
        WARM,
        (T.BEGUN_PART, (C.WANT_ONLY,), S.UNDECIDED),
        (T.ENDED, (C.GIVE_BACK,), S.UNDECIDED),
        READ_CACHE,
    )


def test_a_part_after_everything_leaves_the_promise() -> None:
    play(
        WARM,
        READ_CACHE,
        (T.ENDED_WHOLE, (), S.PAGE_CACHE_READ),
        (T.BEGUN_PART, (), S.PAGE_CACHE_READ),
        (T.ENDED, (), S.PAGE_CACHE_READ),
        (T.CLOSE, (C.CLOSE_SOURCES, C.BRING_IN), S.CLOSED),
    )


def test_what_was_not_read_to_its_end_is_not_brought_in() -> None:
    play(
        WARM,
        READ_CACHE,
        (T.ENDED, (), S.PAGE_CACHE),
        (T.CLOSE, (C.CLOSE_SOURCES, C.CANCEL_PROMISE), S.CLOSED),
    )


@pytest.mark.parametrize("trigger", [T.DAEMON_HAS_IT, T.VIEWED])
def test_the_daemon_is_asked_after_all(trigger: Trigger) -> None:
    play(
        WARM,
        (trigger, (C.CANCEL_PROMISE, C.WANT_ALL), S.DAEMON),
        (T.BEGUN_AS_OPENED, (C.WANT_FIRST,), S.DAEMON),
    )


def test_through_a_window_nothing_is_asked_for_before_the_first_pass() -> None:
    play(
        (T.WINDOW, (C.OPEN_NONE,), S.DAEMON),
        (T.BEGUN_PART, (C.WANT_FIRST,), S.DAEMON),
        (T.ENDED, (C.GIVE_BACK,), S.DAEMON),
        (T.BEGUN_AS_OPENED, (C.WANT_FIRST,), S.DAEMON),
    )


def test_a_new_daemon_takes_the_load_on() -> None:
    state = play(
        COLD,
        (T.BEGUN_AS_OPENED, (), S.DAEMON),
        (T.DAEMON_LOST, (C.REOPEN,), S.RECOVERING),
        (T.ENDED, (), S.RECOVERING),
        (T.REOPENED, (C.REATTACH_VIEWS, C.WANT_REMAINING, C.SWITCH_LOAD), S.DAEMON),
    )
    assert state.route is Route.DAEMON


def test_without_a_daemon_this_process_reads_the_rest() -> None:
    state = play(
        COLD,
        (T.BEGUN_AS_OPENED, (), S.DAEMON),
        (T.DAEMON_LOST, (C.REOPEN,), S.RECOVERING),
        (T.REFUSED, (C.READ_DIRECTLY,), S.LEAVING),
        (T.DIRECT_READY, (C.LEAVE_LOAD,), S.MIXED),
        (T.ENDED_WHOLE, (C.GIVE_BACK,), S.MIXED),
        (T.BEGUN_AS_OPENED, (), S.MIXED),
    )
    assert state.route is Route.MIXED


def test_without_memory_too() -> None:
    play(
        COLD,
        (T.BEGUN_PART, (C.WANT_FIRST,), S.DAEMON),
        (T.MEMORY_REFUSED, (C.READ_DIRECTLY,), S.LEAVING),
        (T.DIRECT_READY, (C.LEAVE_LOAD,), S.MIXED),
    )


def test_a_failed_recovery_is_tried_again_by_the_next_who_waits() -> None:
    play(
        COLD,
        (T.DAEMON_LOST, (C.REOPEN,), S.RECOVERING),
        (T.FAILED, (), S.DAEMON),
        (T.DAEMON_LOST, (C.REOPEN,), S.RECOVERING),
    )


@pytest.mark.parametrize("late", [T.REOPENED, T.DIRECT_READY])
def test_what_opens_after_the_close_is_closed(late: Trigger) -> None:
    play(
        COLD,
        (T.DAEMON_LOST, (C.REOPEN,), S.RECOVERING),
        (T.CLOSE, (C.CLOSE_SOURCES,), S.CLOSED),
        (late, (C.CLOSE_SOURCES,), S.CLOSED),
    )


BEGUN_LATE = (T.BEGUN_AS_OPENED, T.BEGUN_ALL, T.BEGUN_PART, T.VIEWED)


@pytest.mark.parametrize("late", [*BEGUN_LATE, T.DAEMON_LOST, T.MEMORY_REFUSED])
def test_a_close_wins_over_what_another_thread_begins(late: Trigger) -> None:
    play(COLD, (T.CLOSE, (C.CLOSE_SOURCES,), S.CLOSED), (late, (), S.CLOSED))


# --- rules over the whole table -------------------------------------------------------------------


def at(state: State) -> PassState:
    found = PassState()
    found.state = state
    found.route = ROUTES.get(state, Route.DAEMON)
    return found


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("trigger", Trigger)
def test_an_illegal_move_changes_nothing(state: State, trigger: Trigger) -> None:
    found = at(state)
    before = (found.state, found.route)
    if (state, trigger) in TRANSITIONS:
        found.move(trigger)
        assert found.state is TRANSITIONS[state, trigger].state
    else:
        with pytest.raises(IllegalMove, match=trigger.name):
            found.move(trigger)
        assert (found.state, found.route) == before


@given(st.lists(st.sampled_from(Trigger), max_size=40))
def test_a_promise_ends_once_and_only_the_read_cache_is_brought_in(triggers: list[Trigger]) -> None:
    state = PassState()
    promised = False
    for trigger in triggers:
        was = state.state
        if (was, trigger) not in TRANSITIONS:
            continue
        for command in state.move(trigger):
            if command is C.OPEN_PROMISED:
                promised = True
            elif command in (C.CANCEL_PROMISE, C.BRING_IN):
                assert promised, (was, trigger)
                assert command is not C.BRING_IN or was is S.PAGE_CACHE_READ
                promised = False
        if state.state is S.CLOSED:
            assert not promised, (was, trigger)
        if state.state is S.UNDECIDED:
            assert promised


def test_every_state_is_reached_and_left() -> None:
    reached = {move.state for move in TRANSITIONS.values()} | {S.NEW}
    assert reached == set(State)
    closable = {state for state, trigger in TRANSITIONS if trigger is T.CLOSE}
    assert closable == set(State) - {S.NEW}


# --- what a pass has read -------------------------------------------------------------------------

SIZES = (25, 0, 10)


@pytest.fixture
def progress() -> PassProgress:
    return PassProgress(SIZES, 10)


@pytest.mark.parametrize(
    ("order", "kind"),
    [
        ([(0, 0, 3), (2, 0, 1)], T.BEGUN_AS_OPENED),
        ([(2, 0, 1), (0, 0, 3)], T.BEGUN_ALL),
        ([(0, 0, 3)], T.BEGUN_PART),
        ([], T.BEGUN_PART),
    ],
)
def test_kinds_of_passes(
    progress: PassProgress, order: list[tuple[int, int, int]], kind: Trigger
) -> None:
    assert progress.begin(tuple(BlockRange(*one) for one in order)) is kind


def test_the_end_tells_whether_everything_was_read(progress: PassProgress) -> None:
    progress.begin(progress.everything)
    progress.done[0][:] = b"\1\1\1"
    assert progress.end() is T.ENDED
    progress.done[2][0] = 1
    assert progress.end() is T.ENDED_WHOLE
    progress.begin(progress.everything)
    assert progress.end() is T.ENDED


def test_what_remains_keeps_the_order_of_the_pass(progress: PassProgress) -> None:
    progress.begin((BlockRange(2, 0, 1), BlockRange(0, 0, 3)))
    progress.done[0][0] = 1
    assert progress.remaining(lambda shard, block: (shard, block) == (0, 1)) == (
        BlockRange(2, 0, 1),
        BlockRange(0, 2, 3),
    )
