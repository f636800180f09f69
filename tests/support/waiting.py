"""The one way in which a test waits for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

POLL_S: Final = 0.01
LONGEST_STEP_S: Final = 0.5
"""What one call of the predicate counts at most. A machine that stood still for ten seconds, its
disk or its host, gave what is awaited no time to happen."""


def eventually(predicate: Callable[[], T], deadline_s: float = 30.0, what: str = "") -> T:
    """Call `predicate` until it returns something true, and return that.

    An AssertionError inside the predicate counts as "not yet", and is shown if the deadline passes.

    Args:
        predicate: called every hundredth of a second.
        deadline_s: how many seconds to go on, where no call counts more than `LONGEST_STEP_S`; the
            predicate is called once even if this is 0.
        what: the awaited event, for the failure's text.

    Raises:
        AssertionError: the predicate was not true before the deadline.
    """
    waited_s, last_s = 0.0, time.monotonic()
    while True:
        cause: AssertionError | None = None
        answer: T | None = None
        try:
            answer = predicate()
        except AssertionError as error:
            cause = error
        if answer:
            return answer
        now_s = time.monotonic()
        waited_s, last_s = waited_s + min(now_s - last_s, LONGEST_STEP_S), now_s
        if waited_s >= deadline_s:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            last = f"last failure: {cause}" if cause is not None else f"last answer: {answer!r}"
            raise AssertionError(f"not within {deadline_s} s: {name} ({last})") from cause
        time.sleep(POLL_S)
