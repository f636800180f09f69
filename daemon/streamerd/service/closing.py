"""Clients' descriptors that nobody needs any more, until a thread has closed them.

Closing a file whose server is dead may never return, so the loop closes none of them. Owns one
closing thread for each user: a user whose files hang while they are closed holds up no other
user's. Called in the daemon's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from streamerd.workers.threads import Closer

CLOSING_S: Final = 1.0
"""For how long the daemon's end waits until one user's files are closed."""


class Closing:
    """The descriptors that wait to be closed, by user."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closers: dict[int, Closer] = {}
        self._discarded: dict[int, list[int]] = {}
        """Descriptors that this round of the loop has discarded: they are closed together."""

    def discard(self, uid: int, descriptors: Sequence[int]) -> None:
        """Have descriptors of a user's files closed, elsewhere than in the loop."""
        if not self._discarded:
            self._loop.call_soon(self._close_discarded)
        self._discarded.setdefault(uid, []).extend(descriptors)

    def unclosed(self, uid: int) -> int:
        """How many descriptors of a user's files are discarded and not closed yet."""
        closer = self._closers.get(uid)
        return closer.unclosed if closer is not None else 0

    def _close_discarded(self) -> None:
        discarded, self._discarded = self._discarded, {}
        for uid, descriptors in discarded.items():
            closer = self._closers.get(uid)
            if closer is None:
                closer = self._closers[uid] = Closer(f"closing-{uid}")
            closer.close(descriptors)

    async def end(self) -> None:
        """Close what is left, and end the threads that can be ended."""
        self._close_discarded()
        for closer in self._closers.values():
            await self._loop.run_in_executor(None, closer.end, CLOSING_S)
