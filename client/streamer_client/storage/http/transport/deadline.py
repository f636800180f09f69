"""The end of one attempt at a request, however slowly its server sends.

A socket's timeout limits only silence: a server that sends a byte now and then would hold a thread
for ever, and with it the load that waits for its block. So no wait for bytes of an answer (head or
body, of a proxy or of the store) is longer than what is left of the attempt's time. Runs in the
thread that uses the connection.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class TooSlow(TimeoutError):
    """The answer was not complete in the time that its size allows."""


class Deadline:
    """The end of one attempt.

    Args:
        allowed_s: how long the attempt may take from now on.
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, allowed_s: float, clock: Callable[[], float]) -> None:
        self.allowed_s: Final = allowed_s
        self._clock = clock
        self._at_s = clock() + allowed_s

    def left_s(self) -> float:
        """Seconds until the deadline; 0 or less once it has passed."""
        return self._at_s - self._clock()


class Timed(io.RawIOBase):
    """A socket's stream whose reads end with the attempt.

    Args:
        stream: the unbuffered stream of `socket.makefile`; it is closed with this one.
        connected: the socket, whose timeout is lowered towards the end.
        deadline: the end of the attempt.
    """

    def __init__(self, stream: io.RawIOBase, connected: socket.socket, deadline: Deadline) -> None:
        self._stream = stream
        self._socket = connected
        self._deadline = deadline
        self._silence_s = connected.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        """Receive some bytes.

        Raises:
            TooSlow: the attempt's time is over.
            OSError: the connection broke, or was silent for too long.
        """
        left_s = self._deadline.left_s()
        if left_s <= 0:
            raise self._too_slow()
        last = self._silence_s is None or left_s < self._silence_s
        if last:
            self._socket.settimeout(left_s)
        try:
            return self._stream.readinto(buffer)
        except TimeoutError as error:
            if last:
                raise self._too_slow() from error
            raise

    def close(self) -> None:
        """Close the stream below; idempotent."""
        if not self.closed:
            self._stream.close()
        super().close()

    def _too_slow(self) -> TooSlow:
        allowed_s = self._deadline.allowed_s
        return TooSlow(f"sent too little: the answer was not there after {allowed_s:g} s")


def timed(
    stream: io.BufferedIOBase, connected: socket.socket, deadline: Deadline
) -> io.BufferedReader:
    """The same stream with reads that end with the attempt."""
    return io.BufferedReader(Timed(stream.detach(), connected, deadline))
