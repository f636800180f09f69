"""The control connection: handshake, requests and their answers, and who listens to which load.

One a client. Its wire's thread calls `_receive` and `_end`; callers' threads call the public part.
It lives as long as its client or any lease does: views of resident tensors outlive the client. So
does its descriptor link, the end of which is the end of all leases, when the daemon does not answer
any more: it may wake up, and must not take then what somebody still reads.
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
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from importlib import metadata
from typing import Final, Protocol

from streamer_client.connect.descriptors import DescriptorLink, Handover
from streamer_client.connect.wire import DaemonSilent, Wire
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    StreamerError,
    UntrustedSocket,
    error_from_code,
)
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import (
    PROTOCOL,
    Compared,
    Comparing,
    CredentialsWanted,
    DaemonMessage,
    Drop,
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
from streamer_client.storage.local_files import LocalFile

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
JOIN_TIMEOUT_S: Final = 5.0
CANCEL_POLL_S: Final = 0.25
CLIENT: Final = 0
"""The client among the users of its connection; loads are numbered from 1."""

_living: weakref.WeakSet[Connection] = weakref.WeakSet()


class LoadListener(Protocol):
    """What hears of one load, in the wire's thread."""

    def on_opened(self, message: Opened) -> None: ...
    def on_slabs(self, shards: tuple[int, ...], descriptors: list[int]) -> None: ...
    def on_comparing(self) -> None: ...
    def on_compared(self) -> None: ...
    def on_granted(self, ranges: tuple[BlockRange, ...]) -> None: ...
    def on_shard_failed(self, shard: int, error: StreamerError) -> None: ...
    def on_waiting(self, message: Waiting) -> None: ...
    def on_credentials_wanted(self) -> None: ...
    def on_lost(self, error: StreamerError) -> None: ...


class Connection:
    """A greeted connection to a daemon. Made by `Connection.to`."""

    welcome: Welcome

    def __init__(self, socket_path: str, link: DescriptorLink) -> None:
        self.socket_path = socket_path
        self.error: StreamerError | None = None
        """Why the connection is no more, once it is not."""
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._transfers = itertools.count(1)
        self._over = False
        """Whether the wire has ended."""
        self._answers: dict[int, Future[DaemonMessage]] = {}
        self._progress: dict[int, Callable[[Verifying], None]] = {}
        self._listeners: dict[int, LoadListener] = {}
        self._users = {CLIENT}
        """The client itself, and the loads that keep the connection. One thread or another adds and
        takes away; a set does both at once."""
        self._released = threading.Event()
        self._link = link
        self._wire = Wire(socket_path, link, self._receive, self._slabs, self._end)
        _living.add(self)

    @classmethod
    def to(
        cls,
        socket_path: str,
        label: str = "",
        timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> Connection:
        """Connect and greet.

        Args:
            socket_path: of the control socket.
            label: what the daemon's status shows for this client.
            timeout_s: how long the daemon may take for each of its two greetings.

        Raises:
            DaemonUnavailable: nothing answers there, or somebody does who must not be trusted.
            ProtocolMismatch: something of another version does.
            RequestRefused: the socket may not be opened by this user.
        """
        connection = cls(socket_path, DescriptorLink.to(socket_path, timeout_s))
        try:
            connection._greet(label, timeout_s)
        except BaseException:
            connection.stop()
            raise
        return connection

    def _greet(self, label: str, timeout_s: float) -> None:
        answer = self.request(
            lambda request_id: Hello(
                request_id, PROTOCOL, _version(), os.getpid(), label, _world()
            ),
            timeout_s,
        )
        if not isinstance(answer, Welcome) or answer.protocol != PROTOCOL:
            theirs = answer.protocol if isinstance(answer, Welcome) else type(answer).__name__
            raise ProtocolMismatch(
                f"the daemon at {self.socket_path} speaks protocol {theirs}, this client "
                f"{PROTOCOL}; install the same version of streamerd on both sides"
            )
        if answer.proof != self._link.greeting.proof:
            raise UntrustedSocket(
                f"who answers at {self.socket_path} is not the daemon of the descriptor socket "
                "beside it; stop both, and remove the two sockets"
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
        progress: Callable[[Verifying], None] | None = None,
    ) -> DaemonMessage:
        """Send what `build(request_id)` makes and wait for its answer.

        Args:
            build: makes the message.
            timeout_s: how long to wait at most.
            cancelled: asked now and then; ends the wait when it says so.
            progress: called in the wire's thread with what comes before the answer.

        Raises:
            CancelledError: it was cancelled; the daemon may still answer.
            DaemonUnavailable: no answer within `timeout_s`, or the daemon died.
            StreamerError: the daemon's refusal, as the class it was there.
        """
        self.refuse_after_fork()
        request_id = next(self._ids)
        answer: Future[DaemonMessage] = Future()
        self._answers[request_id] = answer
        if progress is not None:
            self._progress[request_id] = progress
        try:
            if self._over:
                raise self._lost_error() from self.error
            self._wire.put(build(request_id))
            message = self._awaited(answer, timeout_s, cancelled)
        finally:
            self._answers.pop(request_id, None)
            self._progress.pop(request_id, None)
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

    def hand_over(self, files: Sequence[LocalFile]) -> int:
        """Pass opened files to the daemon; returns the number of the transfer.

        They are the daemon's too from then on, until `drop`.

        Raises:
            DaemonUnavailable: the daemon died, or descriptors do not reach it.
            StreamerError: the daemon refuses them.
        """
        self.refuse_after_fork()
        number = next(self._transfers)
        done: Future[None] = Future()

        def ended(error: StreamerError | None) -> None:
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        handover = Handover(number, files, ended)
        self._wire.put(lambda: self._begin_handover(handover))
        try:
            done.result()
        except StreamerError as error:
            raise type(error)(*error.args) from error
        except BaseException:
            self._withdraw(handover)
            done.add_done_callback(lambda _: self.drop(number))
            raise
        return number

    def _withdraw(self, handover: Handover) -> None:
        """Interrupted: the files are closed next, so from here on none of them may be sent."""
        withdrawn = threading.Event()

        def withdraw() -> None:
            self._link.withdraw(handover)
            withdrawn.set()

        self._wire.put(withdraw)
        withdrawn.wait(JOIN_TIMEOUT_S)

    def _begin_handover(self, handover: Handover) -> None:
        if self._over:
            handover.done(self._lost_error())
        else:
            self._link.begin(handover)

    def drop(self, transfer: int) -> None:
        """Name a transfer no more; what was opened from it goes on."""
        if transfer:
            self.send(Drop(transfer))

    def listen(self, listener: LoadListener) -> int:
        """Number a new load, hear of it, and keep the connection until `unlisten`."""
        self.refuse_after_fork()
        load = next(self._ids)
        self._listeners[load] = listener
        self._users.add(load)
        if self._over:
            self.unlisten(load)
            raise self._lost_error() from self.error
        return load

    def unlisten(self, load: int) -> None:
        """Hear no more of a load; it does not keep the connection any longer."""
        self._listeners.pop(load, None)
        self.call_soon(lambda: self._release(load))

    def stop_listening(self, load: int) -> None:
        """Hear no more of a load, whose leases still keep the connection."""
        self._listeners.pop(load, None)

    def close(self) -> None:
        """The client needs it no more: ends now, or with the last lease."""
        if self._pid != os.getpid():
            return
        self.call_soon(lambda: self._release(CLIENT))
        self._released.wait(JOIN_TIMEOUT_S)
        if not self._users:
            self._wire.join(JOIN_TIMEOUT_S)

    def abandon(self) -> None:
        """As `close` without waiting, for finalizers."""
        self.call_soon(lambda: self._release(CLIENT))

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
        closed = f"this client has left the daemon at {self.socket_path}; connect again"
        return DaemonUnavailable(closed if self.error is None else f"{self.error}")

    # --- the wire's thread -----------------------------------------------------------------------

    def _release(self, user: int) -> None:
        """One less needs the connection; in any thread once the wire has ended."""
        self._users.discard(user)
        if user == CLIENT:
            self._released.set()
        if not self._users:
            self._wire.stop()
            if self._over:
                self._link.close()

    def _slabs(self, load: int, shards: tuple[int, ...], descriptors: list[int]) -> None:
        if listener := self._listeners.get(load):
            listener.on_slabs(shards, descriptors)
        else:  # closed meanwhile
            for descriptor in descriptors:
                os.close(descriptor)

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
            case Comparing(load=load):
                if listener := self._listeners.get(load):
                    listener.on_comparing()
            case Compared(load=load):
                if listener := self._listeners.get(load):
                    listener.on_compared()
            case CredentialsWanted(load=load):
                if listener := self._listeners.get(load):
                    listener.on_credentials_wanted()
            case Failed(request_id=-1, code=code, message=text):
                raise error_from_code(code, text)
            case Opened(load=load, request_id=request_id):
                if listener := self._listeners.get(load):
                    listener.on_opened(message)
                self._answer(request_id, message)
            case Verifying(request_id=request_id):
                if progress := self._progress.get(request_id):
                    progress(message)
            case _:
                self._answer(message.request_id, message)

    def _answer(self, request_id: int, message: DaemonMessage) -> None:
        waiting = self._answers.get(request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _end(self, error: StreamerError | None) -> None:
        """The wire ended: by itself when nobody needs it any more, else everyone is told."""
        self.error = error
        self._over = True
        if error is not None:
            self._lose(error)
        self._users.discard(CLIENT)  # who still needs it are the loads that were read through it
        self._released.set()
        if not self._users or not isinstance(error, DaemonSilent):
            self._link.close()

    def _lose(self, error: StreamerError) -> None:
        log.warning("event=daemon_lost socket=%s reason=%r", self.socket_path, str(error))
        for waiting in list(self._answers.values()):
            if not waiting.done():
                waiting.set_exception(error)
        for listener in list(self._listeners.values()):
            listener.on_lost(error)


def _world() -> int:
    """What the daemon may tell this process's paths from others' by."""
    try:
        return os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return 0


def _version() -> str:
    try:
        return metadata.version("streamerd")
    except metadata.PackageNotFoundError:
        return "0+source"


@atexit.register
def _stop_living() -> None:
    for connection in list(_living):
        connection.stop()
