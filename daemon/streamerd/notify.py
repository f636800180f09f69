"""Tells systemd the daemon's state: sd_notify(3) over the datagram socket in $NOTIFY_SOCKET.

This module owns that protocol, and the messages while the daemon runs: a status line, and a sign of
life for systemd's watchdog (sd_watchdog_enabled(3)). Without $NOTIFY_SOCKET nothing is sent. Runs
in the daemon's loop, so that a loop that hangs gives no sign of life.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

Send = Callable[..., None]
"""A function that sends assignments, as `notify` does."""


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1`; no effect and no error if systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            logger.warning(
                "event=systemd_not_told assignments=%r error=%r", assignments, error.strerror
            )


def reloading() -> None:
    """Say that a reload begins; systemd waits for the READY=1 that ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds of silence after which systemd ends this process; None if it does not watch it."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    watched = environ.get("WATCHDOG_PID") or str(pid)
    if not microseconds.isdigit() or int(microseconds) == 0 or watched != str(pid):
        return None
    return int(microseconds) / 1e6


class SignsOfLife:
    """Sends systemd signs of life and the status.

    Args:
        watchdog_s: seconds that systemd waits for a sign of life; None without a watchdog.
        tick_s: seconds between two calls of `tick` without a watchdog.
        send: sends assignments.
    """

    def __init__(self, watchdog_s: float | None, tick_s: float, send: Send = notify) -> None:
        self._send = send
        self._watched = watchdog_s is not None
        # Two ticks fall into the time allowed, so that one may be late (sd_watchdog_enabled(3)).
        self._every_s = tick_s if watchdog_s is None else watchdog_s / 2
        self.tick_s = min(tick_s, self._every_s)
        self._said_s = float("-inf")
        self._status = ""

    def tick(self, now_s: float, status: str) -> None:
        """Send a sign of life when one is due, and the status when it has changed."""
        assignments = []
        # A sign that would be late at the next tick is due at this one.
        if self._watched and now_s + self.tick_s - self._said_s > self._every_s:
            assignments.append("WATCHDOG=1")
            self._said_s = now_s
        if status != self._status:
            assignments.append(f"STATUS={status}")
            self._status = status
        if assignments:
            self._send(*assignments)
