"""Tells systemd how the daemon is: sd_notify(3) over the datagram socket in $NOTIFY_SOCKET.

Without that variable nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket

logger = logging.getLogger(__name__)


def notify(*assignments: str) -> None:
    """Send assignments such as `READY=1`; a manager that does not listen is no error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            logger.warning("systemd not told assignments=%s error=%s", assignments, error.strerror)
