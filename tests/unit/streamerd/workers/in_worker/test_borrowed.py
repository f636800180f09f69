"""A borrowed file stays open while a job uses it, and is closed once, when the worker is told to
drop it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from streamer_client.contract.errors import StreamerError
from streamerd.workers.in_worker.borrowed import Borrowings


class Thing:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


def at_once(call: Callable[[], None]) -> None:
    call()


def lent() -> tuple[Borrowings[Thing], Thing]:
    borrowings, thing = Borrowings[Thing]("slab", at_once), Thing()
    borrowings.take(7, thing)
    return borrowings, thing


def test_what_nobody_uses_is_closed_when_it_is_dropped() -> None:
    borrowings, thing = lent()
    borrowings.drop(7)
    borrowings.drop(7)
    assert thing.closed == 1


def test_what_jobs_use_is_closed_after_the_last_of_them() -> None:
    borrowings, thing = lent()
    first, second = borrowings.use(7), borrowings.use(7)
    borrowings.drop(7)
    first.release()
    first.release()
    assert (thing.closed, second.thing) == (0, thing)
    second.release()
    assert thing.closed == 1


def test_a_released_use_gives_nothing_any_more() -> None:
    borrowings, thing = lent()
    with borrowings.using(7) as used:
        assert used is thing
    use = borrowings.use(7)
    use.release()
    assert thing.closed == 0, "it is still lent"
    with pytest.raises(StreamerError, match="given back before the job ended"):
        _ = use.thing


def test_what_was_taken_back_cannot_be_used() -> None:
    borrowings, _ = lent()
    borrowings.drop(7)
    with pytest.raises(StreamerError, match="slab 7 is not lent to this worker any more"):
        borrowings.use(7)


def test_a_handle_that_is_lent_again_is_the_new_thing() -> None:
    """A job that began before the change goes on with the old file."""
    borrowings, old = lent()
    use = borrowings.use(7)
    borrowings.drop(7)
    borrowings.take(7, new := Thing())
    assert (use.thing, borrowings.use(7).thing) == (old, new)
    use.release()
    assert (old.closed, new.closed) == (1, 0)


def test_closing_may_be_left_to_somebody_else() -> None:
    """Closing a file may hang, which must not stop the thread that drops it."""
    left: list[Callable[[], None]] = []
    borrowings = Borrowings[Thing]("file", left.append)
    borrowings.take(1, thing := Thing())
    borrowings.take(2, Thing())
    borrowings.drop(1)
    assert (thing.closed, len(left)) == (0, 1)
    left[0]()
    assert thing.closed == 1
    borrowings.close()
    assert len(left) == 2
