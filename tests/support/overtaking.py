"""A second thread that overtakes the first at a named point, unless something prevents that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

OVERTAKES_S: Final = 0.2
"""How long the first thread stands still. If a lock holds the second thread up, it cannot pass by
then, and goes on when the first one does."""


class Overtaking:
    """Makes a call in a second thread, while the first stands still.

    Args:
        call: what the second thread does.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=call)

    def now(self) -> None:
        """Mark the point at which the first thread may be overtaken; only the first call counts."""
        if self._thread.ident is None:
            self._thread.start()
            self._thread.join(OVERTAKES_S)

    def join(self) -> None:
        """Wait until the second thread is done."""
        self._thread.join()
