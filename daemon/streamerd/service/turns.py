"""The core's turns: events that happened are collected, decided on together, and carried out.

Owns the core, the events that wait for its next turn, and when that turn is. What one round of the
loop learns is given to the core at once, so that clients hear of it in one message. Runs in the
daemon's loop; leaves the carrying out to whoever attached itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from streamerd.state.commands import AnyCommand
from streamerd.state.core import Core
from streamerd.state.events import AnyEvent
from streamerd.state.model import Model

TURN_GAP_S: Final = 0.002
"""Turns begin at least so far apart: what happens between them is decided, and announced, at once.

At 30 GB/s and eight ranks each block alone would be 17 messages; fetch workers have their next
block waiting meanwhile."""

Carrier = Callable[[Sequence[AnyCommand]], None]
"""Carries out the commands of one turn."""
Watcher = Callable[[Sequence[AnyEvent], Sequence[AnyCommand]], None]
"""Hears of what happened in a turn and what was decided, before that is carried out."""


class Turns:
    """Gives events to the core; implements `views.Decisions`.

    Args:
        core: decides; nobody else calls it.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._carry_out: Carrier = _nobody
        self._watch: Watcher = _unwatched
        self._events: list[AnyEvent] = []
        self._turn_due = False
        self._turned_s = 0.0
        self.started_s = self.now_s

    def attach(self, carry_out: Carrier) -> None:
        """Say who carries commands out; before the first event."""
        self._carry_out = carry_out

    def watch(self, watch: Watcher) -> None:
        """Say who only looks on: at most one, who changes nothing."""
        self._watch = watch

    @property
    def model(self) -> Model:
        """What the core knows. Others get it as a `ModelView`."""
        return self._core.model

    @property
    def now_s(self) -> float:
        return self._loop.time()

    def post(self, event: AnyEvent) -> None:
        """Give an event to the core in the next turn, with all that happens until then."""
        self._events.append(event)
        if not self._turn_due:
            self._turn_due = True
            # At once after a pause: opening what is resident waits for nothing.
            self._loop.call_at(self._turned_s + TURN_GAP_S, self.turn)

    def decide(self, *events: AnyEvent) -> None:
        """Let the core decide at once on these events and all that wait."""
        self._events += events
        self.turn()

    def turn(self) -> None:
        """Let the core decide on what has happened, and have its commands carried out."""
        self._turn_due = False
        self._turned_s = self.now_s
        happened, self._events = self._events, []
        decided = self._core.handle(happened)
        self._watch(happened, decided)
        self._carry_out(decided)


def _nobody(_commands: Sequence[AnyCommand]) -> None:
    raise RuntimeError("a turn began before anybody was attached who carries commands out")


def _unwatched(_events: Sequence[AnyEvent], _commands: Sequence[AnyCommand]) -> None:
    """Nobody looks on."""
