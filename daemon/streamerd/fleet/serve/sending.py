"""Sends a block's bytes: by sendfile where the connection is plain, else from a mapping.

Used by `connection.py`, in the thread of a connection. The memory of a block may be given back to
the system while the block is sent. Its remaining bytes are then zeros, which the receiver finds by
the checksum.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import ssl
import threading
import time
from typing import Final

PIECE_BYTES: Final = 1 << 20
SILENCE_S: Final = 10.0
"""Seconds for which a receiver may take no byte at all."""
FLOOR_BYTES_S: Final = 256 << 10
"""The slowest average at which a receiver may take a block."""


class Gate:
    """The cap on the bytes that are sent to all peers together. Thread-safe."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_s = 0.0
        """When all bytes that were taken so far have been sent, at the rate of the cap."""

    def take(self, size_bytes: int) -> None:
        """Wait until `size_bytes` more bytes may be sent."""
        if not self._bytes_per_s:
            return
        with self._lock:
            now_s = time.monotonic()
            turn_s = max(now_s, self._free_s)
            self._free_s = turn_s + size_bytes / self._bytes_per_s
        time.sleep(turn_s - now_s)


def send_block(connected: socket.socket, fd: int, start: int, stop: int, gate: Gate) -> None:
    """Send bytes `start` to `stop` of a slab.

    Raises:
        OSError: the connection broke, or the peer took the bytes too slowly.
    """
    until_s = time.monotonic() + SILENCE_S + (stop - start) / FLOOR_BYTES_S
    connected.settimeout(SILENCE_S)
    if isinstance(connected, ssl.SSLSocket):
        length = stop - start
        with (
            mmap.mmap(fd, length, prot=mmap.PROT_READ, offset=start) as mapping,
            memoryview(mapping) as view,
        ):
            _send_view(connected, view, until_s, gate)
        return
    for piece in range(start, stop, PIECE_BYTES):
        length = min(PIECE_BYTES, stop - piece)
        gate.take(length)
        _send_file(connected, fd, piece, length, until_s)


def _send_view(connected: socket.socket, view: memoryview, until_s: float, gate: Gate) -> None:
    for piece in range(0, len(view), PIECE_BYTES):
        part = view[piece : piece + PIECE_BYTES]
        gate.take(len(part))
        _in_time(until_s)
        with part:
            connected.sendall(part)


def _send_file(connected: socket.socket, fd: int, start: int, length: int, until_s: float) -> None:
    """Send like `socket.sendfile`, but from a descriptor that has no file object or position."""
    stop = start + length
    while start < stop:
        _in_time(until_s)
        try:
            count = os.sendfile(connected.fileno(), fd, start, stop - start)
        except BlockingIOError:
            _await_room(connected)
            continue
        if not count:
            raise ConnectionError("the slab ended early")
        start += count


def _await_room(connected: socket.socket) -> None:
    poll = select.poll()
    poll.register(connected, select.POLLOUT)
    if not poll.poll(SILENCE_S * 1000):
        raise TimeoutError


def _in_time(until_s: float) -> None:
    if time.monotonic() > until_s:
        raise TimeoutError("the peer takes the block too slowly")
