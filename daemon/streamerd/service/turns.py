"""The core's turns: collects events, lets the core decide on them, has its commands carried out.

This module owns the core, the events that wait for its next turn, and the time of that turn. The
events of one round of the loop go to the core together, so that each client gets one message about
them. Runs in the daemon's loop; the function that was given to `attach` carries the commands out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from streamerd.state.commands import AnyCommand
from streamerd.state.core import Core
from streamerd.state.events import AnyEvent, Tick
from streamerd.state.model import Model

TURN_GAP_S: Final = 0.002
"""The least time in seconds between the beginnings of two turns. Events that happen in between are
decided on and announced together.

At 30 GB/s and eight ranks, single turns would cost 17 messages for each block. Fetch workers lose
nothing by the wait, since each has its next block waiting."""

Carrier = Callable[[Sequence[AnyCommand]], None]
"""Carries out the commands of one turn."""
Watcher = Callable[[Sequence[AnyEvent], Sequence[AnyCommand]], None]
"""Called with the events of a turn and the commands that were decided, before these are carried
out."""


class Turns:
    """Gives events to the core; implements `views.Decisions`.

    Args:
        core: decides; only this object calls it.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._loop = asyncio.get_running_loop()
        self._carry_out: Carrier = _nobody
        self._watch: Watcher = _unwatched
        self._events: list[AnyEvent] = []
        self._turn_due = False
        self._turned_s = 0.0
        self.changes = 0
        self.started_s = self.now_s

    def attach(self, carry_out: Carrier) -> None:
        """Set the function that carries commands out. Call this before the first event."""
        self._carry_out = carry_out

    def watch(self, watch: Watcher) -> None:
        """Set the one function that looks on at turns; it must change nothing."""
        self._watch = watch

    @property
    def model(self) -> Model:
        """The state of the core. Other rooms get it as a `ModelView`."""
        return self._core.model

    @property
    def now_s(self) -> float:
        return self._loop.time()

    def post(self, event: AnyEvent) -> None:
        """Give an event to the core in the next turn, with all events until then."""
        self._events.append(event)
        if not self._turn_due:
            self._turn_due = True
            # After a pause the turn comes at once, so that opening a resident shard does not wait.
            self._loop.call_at(self._turned_s + TURN_GAP_S, self.turn)

    def decide(self, *events: AnyEvent) -> None:
        """Let the core decide at once on the events that wait and on these."""
        self._events += events
        self.turn()

    def turn(self) -> None:
        """Let the core decide on the events that wait, and have its commands carried out."""
        self._turn_due = False
        self._turned_s = self.now_s
        happened, self._events = self._events, []
        decided = self._core.handle(happened)
        if decided or not all(isinstance(event, Tick) for event in happened):
            self.changes += 1
        self._watch(happened, decided)
        self._carry_out(decided)


def _nobody(_commands: Sequence[AnyCommand]) -> None:
    raise RuntimeError("a turn began before anybody was attached who carries commands out")


def _unwatched(_events: Sequence[AnyEvent], _commands: Sequence[AnyCommand]) -> None:
    """The initial watcher, which ignores the turn."""
