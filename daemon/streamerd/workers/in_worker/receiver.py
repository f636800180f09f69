"""A process's end of the socket pair to the daemon that started it.

This module receives frames and the descriptors that come with them, in order. The daemon's end is
`in_daemon/channel.py`. Runs in the process's main thread.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections import deque
from collections.abc import Iterator

from streamerd.workers.frames import MOST_DESCRIPTORS, RECEIVE_BYTES, FrameBuffer


class DescriptorsLost(Exception):
    """Some descriptors did not arrive, so later ones cannot be assigned to messages."""


class Receiver:
    """Receives frames from the daemon.

    Args:
        end: a blocking socket, which the caller closes.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._frames = FrameBuffer()
        self._fds: deque[int] = deque()

    def frames(self) -> Iterator[tuple[bytes, tuple[int, ...]]]:
        """Yield bodies with their descriptors, which the caller owns, until the end of file.

        Raises:
            DescriptorsLost: the kernel dropped some descriptors (too many open files here), or
                their number is not what the frames say.
        """
        try:
            while (received := self.receive()) is not None:
                yield from received
        finally:
            self._close_rest()

    def receive(self) -> list[tuple[bytes, tuple[int, ...]]] | None:
        """Receive once; returns the bodies that are complete then, as in `frames`; None at the end.

        Raises:
            DescriptorsLost: as in `frames`.
        """
        data = self._receive()
        if not data:
            self._close_rest()
            return None
        complete = []
        for body, count in self._frames.frames(data):
            if count > len(self._fds):
                raise DescriptorsLost(f"a frame of {count} descriptors came with {len(self._fds)}")
            complete.append((body, tuple(self._fds.popleft() for _ in range(count))))
        return complete

    def _close_rest(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _receive(self) -> bytes:
        fds = array.array("i")
        room = socket.CMSG_SPACE(MOST_DESCRIPTORS * fds.itemsize)
        with contextlib.suppress(ConnectionResetError):
            data, ancillary, flags, _ = self._socket.recvmsg(
                RECEIVE_BYTES, room, socket.MSG_CMSG_CLOEXEC
            )
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            self._fds.extend(fds)
            if flags & socket.MSG_CTRUNC:
                raise DescriptorsLost(
                    "the kernel cut a message's descriptors off: too many files are open here "
                    "(LimitNOFILE), or a security module refuses them"
                )
            return data
        return b""
