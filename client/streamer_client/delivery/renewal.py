"""Keeps the credentials of one load fresh with the daemon that reads for it.

Owns a thread that looks for newer credentials now and then, and at once when the daemon says that
they have expired. It has a thread of its own because resolving credentials may ask a metadata
service, and neither the wire nor a copying thread may wait for that. Only loads of sources that
take an environment have a renewal.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Final

from streamer_client.connecting.source_access import SourceAccess

CHECK_S: Final = 30.0
"""How often credentials are looked at while the daemon does not complain."""
PATIENCE_S: Final = 10.0
"""How long to look for newer credentials once the daemon has asked."""
AGAIN_S: Final = 1.0

Send = Callable[[dict[str, str]], None]


class Renewal:
    """The renewal of one load; it ends with `close`, or with the object that `send` belongs to.

    Args:
        access: resolves the credentials.
        send: a method that takes a newer environment; only a weak reference to its object is kept.
        patience_s: see `PATIENCE_S`.
    """

    def __init__(self, access: SourceAccess, send: Send, patience_s: float = PATIENCE_S) -> None:
        self._access = access
        self._sent: dict[str, str] = {}
        self._send = weakref.WeakMethod(send)
        self._patience_s = patience_s
        self._wake = threading.Event()
        self._wanted = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def sent(self, environment: dict[str, str]) -> None:
        """Note the environment that an open sent; the first non-empty one starts the thread."""
        self._sent = environment
        if environment and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="streamer-renewal", daemon=True)
            self._thread.start()

    def want(self) -> None:
        """Look for newer credentials now, because the daemon asks for them. Does not wait."""
        self._wanted = True
        self._wake.set()

    def close(self) -> None:
        """Stop renewing. Does not wait; idempotent, safe in finalizers."""
        self._closed = True
        self._wake.set()

    def _run(self) -> None:
        while not self._closed and self._send() is not None:
            self._wake.wait(CHECK_S)
            self._wake.clear()
            if not self._closed:
                wanted, self._wanted = self._wanted, False
                self._renew(wanted=wanted)

    def _renew(self, *, wanted: bool) -> None:
        """Send a newer environment; if none is newer and one was wanted, send the same again."""
        deadline = time.monotonic() + (self._patience_s if wanted else 0.0)
        while (fresh := self._access.environment()) == self._sent:
            if time.monotonic() >= deadline or self._closed:
                break
            self._wake.wait(AGAIN_S)
            self._wake.clear()
        send = self._send()
        if send is not None and not self._closed and (wanted or fresh != self._sent):
            self._sent = fresh
            send(fresh)
