"""A second thread that overtakes the first at a named point, where nothing keeps it from that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

OVERTAKES_S: Final = 0.2
"""For so long the first thread stands still. A second thread that a lock holds up does not come
through by then, and goes on when the first one does."""


class Overtaking:
    """Makes a call in a second thread.

    Args:
        call: what the second thread does.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=call)

    def now(self) -> None:
        """The point at which the first thread may be overtaken; only the first time counts."""
        if self._thread.ident is None:
            self._thread.start()
            self._thread.join(OVERTAKES_S)

    def join(self) -> None:
        """Wait until the second thread is done."""
        self._thread.join()
