"""The one way in which a test waits for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

POLL_S: Final = 0.01


def eventually(predicate: Callable[[], T], deadline_s: float = 10.0, what: str = "") -> T:
    """Call `predicate` until it returns something true, and return that.

    An AssertionError inside the predicate counts as "not yet", and is shown if the deadline passes.

    Args:
        predicate: called every hundredth of a second.
        deadline_s: how many seconds to go on; the predicate is called once even if this is 0.
        what: the awaited event, for the failure's text.

    Raises:
        AssertionError: the predicate was not true before the deadline.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        cause: AssertionError | None = None
        answer: T | None = None
        try:
            answer = predicate()
        except AssertionError as error:
            cause = error
        if answer:
            return answer
        if time.monotonic() >= deadline:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            last = f"last failure: {cause}" if cause is not None else f"last answer: {answer!r}"
            raise AssertionError(f"not within {deadline_s} s: {name} ({last})") from cause
        time.sleep(POLL_S)
