"""The ROUTER socket in the daemon's asyncio loop.

Owns framing and delivery; whom a message is from is a string, what it says is a typed message. Runs
in the main loop without a thread or a task: libzmq's descriptor wakes it, and it reads until
nothing is left, because that descriptor signals edges only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from typing import Final

import zmq

from streamer_client.contract.errors import ConfigError, ProtocolMismatch
from streamer_client.contract.messages import ClientMessage, Failed, Message, decode_client, encode

logger = logging.getLogger(__name__)

MAX_MESSAGES_A_TURN: Final = 256
"""After so many messages the loop sees to other things first."""
CONNECTION_REQUEST: Final = -1

Receiver = Callable[[str, int, ClientMessage], None]
"""Called with the peer's name, its pid as the kernel tells it (0: not visible), and the message."""


class ControlSocket:
    """Binds `ipc://path` and hands every valid message to `receive`."""

    def __init__(self, path: str, receive: Receiver, mode: int = 0o660) -> None:
        self._path = path
        self._receive = receive
        self._mode = mode
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.ROUTER)
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None

    def open(self) -> None:
        """Bind and begin to receive.

        Raises:
            ConfigError: the socket cannot be made there.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        # A peer is never dropped for being slow: what queues up is bounded by the blocks it asked
        # for.
        self._socket.sndhwm = 0
        self._socket.rcvhwm = 0
        self._socket.linger = 500
        self._socket.router_mandatory = 1
        # By umask, not by chmod afterwards: a client that looks for its new daemon would be refused
        # in between.
        umask = os.umask(0o777 & ~self._mode)
        try:
            self._socket.bind(f"ipc://{self._path}")
        except (zmq.ZMQError, OSError) as error:
            raise ConfigError(f"cannot listen on {self._path}: {error}") from error
        finally:
            os.umask(umask)
        self._loop.add_reader(self._descriptor, self._drain)
        self._schedule()

    @property
    def _descriptor(self) -> int:
        return int(self._socket.getsockopt(zmq.FD))

    def close(self) -> None:
        """Stop listening and take the socket file away."""
        if self._again is not None:
            self._again.cancel()
        if not self._socket.closed:
            self._loop.remove_reader(self._descriptor)
            self._socket.close()
            self._context.term()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def send(self, peer: str, message: Message) -> bool:
        """Queue a message; False when the peer is not connected any more, or the socket closed."""
        if self._socket.closed:
            return False
        try:
            self._socket.send_multipart([bytes.fromhex(peer), encode(message)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            logger.debug("send failed peer=%s error=%s", peer, error)
            return False
        finally:
            # Sending may swallow the edge that announces a message to read.
            self._schedule()
        return True

    def _schedule(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for _ in range(MAX_MESSAGES_A_TURN):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._deliver(frames)
        self._schedule()

    def _deliver(self, frames: list[zmq.Frame]) -> None:
        peer = frames[0].bytes.hex()
        try:
            if len(frames) != 2:
                raise ProtocolMismatch(f"a message of {len(frames) - 1} frames instead of 1")
            message = decode_client(frames[1].buffer)
        except ProtocolMismatch as error:
            logger.warning("garbage received peer=%s error=%s", peer, error)
            self.send(peer, Failed(CONNECTION_REQUEST, error.code, str(error)))
            return
        self._receive(peer, peer_pid(frames[-1]), message)


def peer_pid(frame: zmq.Frame) -> int:
    """The sender's pid as SO_PEERCRED gave it to libzmq; 0 when it is in a namespace we cannot see.

    libzmq describes an ipc peer as `<host>:<uid>:<gid>:<pid>`.
    """
    try:
        return int(str(frame.get("Peer-Address")).rsplit(":", 1)[1])
    except (zmq.ZMQError, IndexError, ValueError):
        return 0
