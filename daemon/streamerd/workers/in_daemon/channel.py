"""The daemon's end of a socket pair to a process that it started.

A channel sends frames with their descriptors, in order and without ever waiting, and receives
answers. The other end is `in_worker/receiver.py`. Runs in the daemon's loop. This module does not
know the meaning of frames.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamerd.workers.frames import MOST_DESCRIPTORS, RECEIVE_BYTES, FrameBuffer

TOO_MANY_RETRY_S: Final = 0.01
"""Pause after ETOOMANYREFS. The kernel limits the descriptors in flight of each user. A receiver
takes them out within microseconds, but no event tells the sender."""


@dataclass(slots=True)
class _Unsent:
    """The part of a frame that has not been sent yet."""

    data: memoryview
    fds: tuple[int, ...]
    """The sender's descriptors, which are sent with the frame's first byte."""
    tag: int


class Channel:
    """One end of a socket pair. It belongs to the running loop.

    Args:
        end: the socket, which belongs to the channel from now on.
        on_body: called with each message's body that arrives.
        on_lost: called once when the other end is gone, but not after `close`.
    """

    def __init__(
        self, end: socket.socket, on_body: Callable[[bytes], None], on_lost: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = end
        self._on_body = on_body
        self._on_lost = on_lost
        self._frames = FrameBuffer()
        self._unsent: deque[_Unsent] = deque()
        self._writing = False
        self._retry: asyncio.TimerHandle | None = None
        self.closed = False
        end.setblocking(False)
        self._fd = end.fileno()
        self._loop.add_reader(self._fd, self._readable)

    def send(self, frame: bytes, fds: tuple[int, ...] = (), tag: int = 0) -> None:
        """Send a frame, now or when the socket has room.

        Args:
            frame: the complete frame, with the number of `fds` in its head.
            fds: descriptors, which the caller still owns, and keeps open until the frame was
                received (as its answer shows) or `withdraw` took it out.
            tag: a number that `withdraw` returns if it takes the frame out.
        """
        assert len(fds) <= MOST_DESCRIPTORS
        if self.closed:
            return
        count = 0
        if not self._unsent and not fds:  # nearly every frame takes this branch
            try:
                count = self._socket.send(frame)
            except OSError:
                count = 0  # `_send_on` meets the same error
            if count == len(frame):
                return
        self._unsent.append(_Unsent(memoryview(frame)[count:], fds, tag))
        if len(self._unsent) == 1:
            self._send_on()

    def withdraw(self, fds: tuple[int, ...]) -> list[int]:
        """Take out every frame that still waits to carry one of `fds`; returns their tags."""
        gone, tags = set(fds), []
        if any(gone & set(each.fds) for each in self._unsent):
            tags = [each.tag for each in self._unsent if gone & set(each.fds)]
            self._unsent = deque(each for each in self._unsent if not gone & set(each.fds))
        return tags

    def close(self) -> None:
        """Close this end; what was not sent is dropped. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._unsent.clear()
        self._stop_waiting()
        self._loop.remove_reader(self._fd)
        self._socket.close()

    # --- sending

    def _send_on(self) -> None:
        self._stop_waiting()
        try:
            while self._unsent:
                first = self._unsent[0]
                count = self._send_some(first)
                if count < len(first.data):
                    # If some bytes were sent, the descriptors were sent with them.
                    first.data, first.fds = first.data[count:], ()
                    continue
                self._unsent.popleft()
        except BlockingIOError:
            self._writing = True
            self._loop.add_writer(self._fd, self._send_on)
        except OSError as error:
            if error.errno == errno.ETOOMANYREFS:
                self._retry = self._loop.call_later(TOO_MANY_RETRY_S, self._send_on)
            else:  # the other end is closed, of which the end of file tells the reader
                self._unsent.clear()

    def _send_some(self, unsent: _Unsent) -> int:
        if not unsent.fds:
            return self._socket.send(unsent.data)
        return socket.send_fds(self._socket, [unsent.data], unsent.fds)

    def _stop_waiting(self) -> None:
        if self._writing:
            self._loop.remove_writer(self._fd)
            self._writing = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    # --- receiving

    def _readable(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_lost()
            return
        for body in self._frames.feed(data):
            if self.closed:  # `on_body` has closed this channel
                return
            self._on_body(body)
