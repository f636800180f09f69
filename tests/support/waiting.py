"""The one way in which a test waits for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

POLL_S: Final = 0.01


def eventually(predicate: Callable[[], T], deadline_s: float = 10.0, what: str = "") -> T:
    """Call `predicate` until it answers something true, and return that.

    An AssertionError inside the predicate counts as "not yet", and is told if the deadline passes.

    Args:
        predicate: asked every hundredth of a second.
        deadline_s: seconds to go on asking; it is asked once even where this is 0.
        what: what is waited for, for the failure's text.

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
