"""Closes clients' descriptors that are not needed any more, in threads.

Closing a file whose server is dead may never return, so the loop itself closes none of them. Each
user has closing threads of his own, so that files that hang delay only the files of the same user.
Called in the daemon's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from streamerd.workers.threads import Closer

CLOSING_S: Final = 1.0
"""Seconds for which the daemon waits at its end until one user's files are closed."""


class Closing:
    """The descriptors that wait to be closed, by user."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closers: dict[int, Closer] = {}
        self._discarded: dict[int, list[int]] = {}
        """Descriptors that were discarded in this round of the loop. They are closed together."""

    def discard(self, uid: int, descriptors: Sequence[int]) -> None:
        """Have descriptors of a user's files closed, elsewhere than in the loop."""
        if not self._discarded:
            self._loop.call_soon(self._close_discarded)
        self._discarded.setdefault(uid, []).extend(descriptors)

    def unclosed(self, uid: int) -> int:
        """How many descriptors of a user's files were discarded and are not closed yet."""
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
        """Close the remaining descriptors, and end the threads that can be ended."""
        self._close_discarded()
        for closer in self._closers.values():
            await self._loop.run_in_executor(None, closer.end, CLOSING_S)
