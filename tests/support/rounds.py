"""A store that holds requests back until a test releases all that wait, as one network delay.

A request of one round was sent without knowing any answer of the same round. So the number of
rounds is the number of network delays that an action waits for.
"""

from __future__ import annotations

import threading

from tests.support.fault_proxy import Asked, Backend, Reply
from tests.support.waiting import eventually


class Rounds:
    """A backend before another one. Its requests pass in rounds until `passes` is set."""

    def __init__(self, behind: Backend) -> None:
        self._behind = behind
        self._changed = threading.Condition()
        self._waiting: list[Asked] = []
        self._round = 0
        self.passes = False

    def answer(self, asked: Asked) -> Reply:
        with self._changed:
            self._waiting.append(asked)
            mine = self._round
            self._changed.wait_for(lambda: self.passes or self._round > mine)
        return self._behind.answer(asked)

    def release(self) -> list[Asked]:
        """Wait for a request, and release all that have come."""
        eventually(lambda: bool(self._waiting))
        with self._changed:
            released, self._waiting = self._waiting, []
            self._round += 1
            self._changed.notify_all()
        return released

    def hold_again(self) -> None:
        """Hold requests back again that come after `let_all_pass`; none is under way now."""
        with self._changed:
            self.passes, self._waiting = False, []

    def let_all_pass(self) -> None:
        """Hold no request back any more."""
        with self._changed:
            self.passes = True
            self._changed.notify_all()
