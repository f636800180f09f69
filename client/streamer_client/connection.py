"""The control connection: handshake, requests and their answers, and who listens to which load.

One a client. Its wire's thread calls `_receive` and `_lose`; callers' threads call the public part.
It lives as long as its client or any lease does: views of resident tensors outlive the client.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from importlib import metadata
from typing import Final, Protocol

from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    StreamerError,
    error_from_code,
)
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import (
    PROTOCOL,
    CredentialsWanted,
    DaemonMessage,
    Failed,
    Granted,
    Heartbeat,
    Hello,
    Message,
    Opened,
    ShardFailed,
    Verifying,
    Waiting,
    Welcome,
)
from streamer_client.socket_probe import probe
from streamer_client.wire import Wire

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
JOIN_TIMEOUT_S: Final = 5.0
CANCEL_POLL_S: Final = 0.25

_living: weakref.WeakSet[Connection] = weakref.WeakSet()


class LoadListener(Protocol):
    """What hears of one load, in the wire's thread."""

    def on_opened(self, message: Opened) -> None: ...
    def on_granted(self, ranges: tuple[BlockRange, ...]) -> None: ...
    def on_shard_failed(self, shard: int, error: StreamerError) -> None: ...
    def on_waiting(self, message: Waiting) -> None: ...
    def on_credentials_wanted(self) -> None: ...
    def on_lost(self, error: StreamerError) -> None: ...


class Connection:
    """A greeted connection to a daemon. Made by `Connection.to`."""

    welcome: Welcome

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self.error: StreamerError | None = None
        """Why the connection is no more, once it is not."""
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._answers: dict[int, Future[DaemonMessage]] = {}
        self._listeners: dict[int, LoadListener] = {}
        self._users = 1
        self._settled = threading.Event()
        self._wire = Wire(socket_path, self._receive, self._lose)
        _living.add(self)

    @classmethod
    def to(
        cls, socket_path: str, label: str = "", timeout_s: float = HANDSHAKE_TIMEOUT_S
    ) -> Connection:
        """Connect and greet.

        Raises:
            DaemonUnavailable: nothing answers there.
            ProtocolMismatch: something of another version does.
            RequestRefused: the socket may not be opened by this user.
        """
        probe(socket_path)
        connection = cls(socket_path)
        try:
            connection._greet(label, timeout_s)
        except BaseException:
            connection.stop()
            raise
        return connection

    def _greet(self, label: str, timeout_s: float) -> None:
        namespace = os.stat("/proc/self/ns/pid").st_ino
        answer = self.request(
            lambda request_id: Hello(
                request_id, PROTOCOL, _version(), os.getpid(), namespace, label
            ),
            timeout_s,
        )
        if not isinstance(answer, Welcome) or answer.protocol != PROTOCOL:
            theirs = answer.protocol if isinstance(answer, Welcome) else type(answer).__name__
            raise ProtocolMismatch(
                f"the daemon at {self.socket_path} speaks protocol {theirs}, this client "
                f"{PROTOCOL}; install the same version of streamerd on both sides"
            )
        self.welcome = answer
        self._wire.heartbeat_s = answer.heartbeat_s
        self._wire.put(lambda: None)  # wakes the thread, which then knows its pace

    # --- callers' threads ------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.error is None and self._pid == os.getpid()

    def send(self, message: Message) -> None:
        """Queue a message; lost without a word when the daemon is. Safe in finalizers."""
        if self._pid == os.getpid():
            self._wire.put(message)

    def tell(self, build: Callable[[int], Message]) -> None:
        """Send a request whose answer nobody waits for. Safe in finalizers."""
        self.send(build(next(self._ids)))

    def call_soon(self, call: Callable[[], None]) -> None:
        """Make a call in the wire's thread, in order with what is sent. Safe in finalizers."""
        if self._pid == os.getpid():
            self._wire.put(call)

    def request(
        self,
        build: Callable[[int], Message],
        timeout_s: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> DaemonMessage:
        """Send what `build(request_id)` makes and wait for its answer.

        Args:
            build: makes the message.
            timeout_s: how long to wait at most.
            cancelled: asked now and then; ends the wait when it says so.

        Raises:
            CancelledError: it was cancelled; the daemon may still answer.
            DaemonUnavailable: no answer within `timeout_s`, or the daemon died.
            StreamerError: the daemon's refusal, as the class it was there.
        """
        self.refuse_after_fork()
        request_id = next(self._ids)
        answer: Future[DaemonMessage] = Future()
        self._answers[request_id] = answer
        try:
            if self.error is not None:
                raise self._lost_error() from self.error
            self._wire.put(build(request_id))
            message = self._awaited(answer, timeout_s, cancelled)
        finally:
            self._answers.pop(request_id, None)
        if isinstance(message, Failed):
            raise error_from_code(message.code, message.message)
        return message

    def _awaited(
        self,
        answer: Future[DaemonMessage],
        timeout_s: float | None,
        cancelled: Callable[[], bool],
    ) -> DaemonMessage:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = math.inf if deadline is None else deadline - time.monotonic()
            try:
                return answer.result(max(0.0, min(left_s, CANCEL_POLL_S)))
            except TimeoutError as error:
                if cancelled():
                    raise CancelledError from error
                if left_s > CANCEL_POLL_S:
                    continue
                raise DaemonUnavailable(
                    f"the daemon at {self.socket_path} did not answer within {timeout_s} s; "
                    "see its log, or restart it: systemctl restart streamerd"
                ) from error

    def listen(self, listener: LoadListener) -> int:
        """Number a new load, hear of it, and keep the connection until `unlisten`."""
        self.refuse_after_fork()
        load = next(self._ids)
        self._listeners[load] = listener
        self._wire.put(self._retain)
        if self.error is not None:
            raise self._lost_error() from self.error
        return load

    def unlisten(self, load: int) -> None:
        """Hear no more of a load; it does not keep the connection any longer."""
        self._listeners.pop(load, None)
        self.call_soon(self._release)

    def stop_listening(self, load: int) -> None:
        """Hear no more of a load, whose leases still keep the connection."""
        self._listeners.pop(load, None)

    def close(self) -> None:
        """The client needs it no more: ends now, or with the last lease."""
        if self._pid != os.getpid():
            return
        self.call_soon(self._release_client)
        if self.error is None:
            self._settled.wait(JOIN_TIMEOUT_S)
        if self.error is not None or self._users == 0:
            self._wire.join(JOIN_TIMEOUT_S)

    def abandon(self) -> None:
        """As `close` without waiting, for finalizers."""
        self.call_soon(self._release_client)

    def stop(self) -> None:
        """End at once, leases or not, and join the thread. Idempotent."""
        if self._pid == os.getpid():
            self._wire.stop()
            self._wire.join(JOIN_TIMEOUT_S)

    def refuse_after_fork(self) -> None:
        if self._pid != os.getpid():
            raise DaemonUnavailable(
                f"this connection belongs to process {self._pid} and does not survive fork; "
                f"call streamer_client.connect() again in process {os.getpid()}"
            )

    def _lost_error(self) -> StreamerError:
        return DaemonUnavailable(f"{self.error}")

    # --- the wire's thread -----------------------------------------------------------------------

    def _retain(self) -> None:
        self._users += 1

    def _release(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._wire.stop()

    def _release_client(self) -> None:
        self._release()
        self._settled.set()

    def _receive(self, message: DaemonMessage) -> None:
        match message:
            case Heartbeat():
                pass
            case Granted(load=load, ranges=ranges):
                if listener := self._listeners.get(load):
                    listener.on_granted(ranges)
            case ShardFailed(load=load, shard=shard, code=code, message=text):
                if listener := self._listeners.get(load):
                    listener.on_shard_failed(shard, error_from_code(code, text))
            case Waiting(load=load):
                if listener := self._listeners.get(load):
                    listener.on_waiting(message)
            case CredentialsWanted(load=load):
                if listener := self._listeners.get(load):
                    listener.on_credentials_wanted()
            case Failed(request_id=-1, code=code, message=text):
                raise error_from_code(code, text)
            case Opened(load=load, request_id=request_id):
                if listener := self._listeners.get(load):
                    listener.on_opened(message)
                self._answer(request_id, message)
            case Verifying():
                pass  # only who asks for a verification cares, and `streamerctl` does so itself
            case _:
                self._answer(message.request_id, message)

    def _answer(self, request_id: int, message: DaemonMessage) -> None:
        waiting = self._answers.get(request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _lose(self, error: StreamerError) -> None:
        """The wire broke: tell everyone who waits."""
        self.error = error
        self._settled.set()
        log.warning("event=daemon_lost socket=%s reason=%r", self.socket_path, str(error))
        for waiting in list(self._answers.values()):
            if not waiting.done():
                waiting.set_exception(error)
        for listener in list(self._listeners.values()):
            listener.on_lost(error)


def _version() -> str:
    try:
        return metadata.version("streamerd")
    except metadata.PackageNotFoundError:
        return "0+source"


@atexit.register
def _stop_living() -> None:
    for connection in list(_living):
        connection.stop()
