"""One conversation with the daemon, synchronously: say hello, ask, take the answer.

Owns streamerctl's side of the control socket. Single-threaded: heartbeats are sent only while it
waits for an answer, which is the only time that it stays connected for long.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import time
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Final, Self, TypeVar

import zmq

from streamer_client.contract.errors import DaemonUnavailable, ProtocolMismatch, error_from_code
from streamer_client.contract.messages import (
    PROTOCOL,
    DaemonMessage,
    Failed,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Verifying,
    Welcome,
    decode_daemon,
    encode,
)
from streamerd import __version__

ANSWER_TIMEOUT_S: Final = 5.0
"""For the first answer; afterwards three heartbeats of the daemon's own."""
_SILENT_HEARTBEATS: Final = 3

Answer = TypeVar("Answer", bound=Message)


class Requester:
    """A connection for a few requests; a context manager.

    Raises:
        DaemonUnavailable: nobody listens, or nobody answers in time.
        ProtocolMismatch: the daemon speaks another version.
    """

    def __init__(self, socket_path: str, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        _probe(socket_path)
        self._path = socket_path
        self._heartbeat_s = timeout_s / _SILENT_HEARTBEATS
        self._ids = count(1)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 200
        self._socket.connect(f"ipc://{socket_path}")

    def __enter__(self) -> Self:
        try:
            welcome = self.ask(_hello(self.next_id()), Welcome)
        except BaseException:
            self.close()
            raise
        self._heartbeat_s = welcome.heartbeat_s
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.send(encode(Goodbye()))
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._socket.close()
        self._context.term()

    def next_id(self) -> int:
        """A request number not used before in this conversation."""
        return next(self._ids)

    def ask(
        self,
        request: Message,
        answer: type[Answer],
        progress: Callable[[Verifying], None] = lambda _told: None,
    ) -> Answer:
        """Send a request and wait for its answer; `progress` hears of what comes before.

        Raises:
            StreamerError: what the daemon answered `Failed` with, as the class that it was there.
        """
        self._socket.send(encode(request))
        while True:
            message = self._receive()
            if isinstance(message, Failed):
                raise error_from_code(message.code, message.message)
            if isinstance(message, answer):
                return message
            if isinstance(message, Verifying):
                progress(message)
            elif not isinstance(message, Heartbeat):
                raise ProtocolMismatch(
                    f"asked {type(request).__name__}, and the daemon at {self._path} answered "
                    f"{type(message).__name__}; install the same version of streamerd on both sides"
                )

    def _receive(self) -> DaemonMessage:
        deadline_s = time.monotonic() + _SILENT_HEARTBEATS * self._heartbeat_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            wait_s = min(left_s, self._heartbeat_s)
            if self._socket.poll(int(wait_s * 1000) + 1):
                return decode_daemon(self._socket.recv())
            self._socket.send(encode(Heartbeat()))
        raise DaemonUnavailable(
            f"the daemon at {self._path} accepts connections and has not answered for "
            f"{_SILENT_HEARTBEATS * self._heartbeat_s:.0f} s; look at its log, and restart it "
            "if it hangs"
        )


def _hello(request_id: int) -> Hello:
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return Hello(request_id, PROTOCOL, __version__, os.getpid(), namespace, "streamerctl")


def _probe(socket_path: str) -> None:
    """Find out at once whether anybody listens; ZeroMQ itself would try for ever in silence."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWER_TIMEOUT_S)
        try:
            probe.connect(socket_path)
        except OSError as error:
            raise DaemonUnavailable(_unavailable(socket_path, error)) from error


def _unavailable(socket_path: str, error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return (
                f"no permission to connect to {socket_path}; {_how_to_join(socket_path)}, or "
                "choose another daemon with --socket or STREAMERD_SOCKET"
            )
        case errno.ECONNREFUSED:
            what = "has no daemon behind it: the socket file is left over from one that died"
        case errno.ENOENT:
            what = "does not exist: no daemon runs there"
        case _:
            what = f"cannot be reached ({error.strerror or error})"
    return (
        f"{socket_path} {what}; start one with `systemctl start streamerd` or "
        f"`streamerd --socket {socket_path}`, or name another with --socket or STREAMERD_SOCKET"
    )


def _how_to_join(socket_path: str) -> str:
    """What makes this user a member of the socket's group."""
    try:
        group = grp.getgrgid(os.stat(socket_path).st_gid).gr_name
        user = pwd.getpwuid(os.getuid()).pw_name
    except (OSError, KeyError):
        return "run as a user of its group"
    return f"join its group with `sudo usermod -aG {group} {user}` and log in again"
