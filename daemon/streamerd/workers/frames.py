"""Frames: how messages between the daemon and its processes travel on a socket pair. Pure.

A frame is a head and one message as msgpack. The head holds the length of the message and the
number of file descriptors that are sent with it. The end of file on the socket pair tells each side
that the other one is gone.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

_HEAD: Final = struct.Struct("<IB")
"""The head: length of the body, and number of descriptors that are sent with the frame."""

MOST_DESCRIPTORS: Final = 253
"""The most descriptors that one message on a Unix socket can carry: SCM_MAX_FD of the kernel."""

RECEIVE_BYTES: Final = 256 << 10
"""Bytes that one receive call asks for."""

_encoder = msgspec.msgpack.Encoder()


def frame(message: msgspec.Struct, descriptors: int = 0) -> bytes:
    """A message with its head, ready to be sent."""
    body = _encoder.encode(message)
    return _HEAD.pack(len(body), descriptors) + body


class FrameBuffer:
    """Cuts a received byte stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; returns the bodies that are complete now."""
        return [body for body, _ in self.frames(data)]

    def frames(self, data: bytes) -> list[tuple[bytes, int]]:
        """Like `feed`, but returns each body with the number of descriptors that come with it."""
        pending = self._pending
        received: bytes | bytearray = data  # mostly whole frames, which need no copy in `_pending`
        if pending:
            pending += data
            received = pending
        complete = []
        start, size, head_bytes = 0, len(received), _HEAD.size
        while size - start >= head_bytes:
            length, descriptors = _HEAD.unpack_from(received, start)
            body = start + head_bytes
            if size < body + length:
                break
            start = body + length
            complete.append((bytes(received[body:start]), descriptors))
        if received is pending:
            del pending[:start]
        else:
            pending += received[start:]
        return complete
