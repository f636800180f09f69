"""The control connection: handshake, requests, files handed over, and how long it lives.

Owns one greeted connection; each client has one. What comes from the daemon goes to the recipients
(`recipients.py`). The wire's thread calls `_end`, `_begin_handover` and `_release`; callers'
threads call the public part. A connection lives as long as its client or any lease does, because
views of resident tensors outlive the client. The end of the descriptor link ends all leases. So the
link stays open even while the daemon is silent: a daemon that wakes up must not take away blocks
that are still being read.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from importlib import metadata
from typing import Final

from streamer_client.connecting.descriptors import DescriptorLink, Handover
from streamer_client.connecting.recipients import (
    CANCEL_POLL_S,
    LoadListener,
    Progress,
    Recipients,
)
from streamer_client.connecting.wire import DaemonSilent, Wire
from streamer_client.contract.errors import (
    DaemonUnavailable,
    ProtocolMismatch,
    StreamerError,
    UntrustedSocket,
    error_from_code,
)
from streamer_client.contract.messages import (
    PROTOCOL,
    DaemonMessage,
    Drop,
    Failed,
    Hello,
    Message,
    Welcome,
)
from streamer_client.storage.local_files import LocalFile

logger = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
JOIN_TIMEOUT_S: Final = 5.0
CLIENT: Final = 0
"""The number of the client itself among `_users`; loads are numbered from 1."""

_living: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection:
    """A greeted connection to a daemon. Made by `Connection.to`."""

    welcome: Welcome

    def __init__(self, socket_path: str, link: DescriptorLink) -> None:
        self.socket_path = socket_path
        self.error: StreamerError | None = None
        """The error that ended the connection; None while it lives, and after `stop`."""
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._transfers = itertools.count(1)
        self._over = False
        """Whether the wire has ended."""
        self._recipients = Recipients(socket_path)
        self._users = {CLIENT}
        """The client itself, and the loads that need the connection. Several threads add and take
        away; each operation of a set is atomic."""
        self._released = threading.Event()
        self._link = link
        recipients = self._recipients
        self._wire = Wire(socket_path, link, recipients.receive, recipients.slabs, self._end)
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
            socket_path: path of the control socket.
            label: what the daemon's status shows for this client.
            timeout_s: how long the daemon may take for each of its two greetings.

        Raises:
            DaemonUnavailable: nothing answers there, or the listener must not be trusted.
            ProtocolMismatch: the listener speaks another version of the protocol.
            RequestRefused: this user may not open the socket.
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
        self._wire.pulse.heartbeat_s = answer.heartbeat_s
        self._wire.put(lambda: None)  # wakes the thread, so that it begins to send heartbeats

    # --- callers' threads ------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.error is None and self._pid == os.getpid()

    def send(self, message: Message) -> None:
        """Queue a message; it is lost without a word when the daemon is. Safe in finalizers."""
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
        progress: Progress | None = None,
    ) -> DaemonMessage:
        """Send what `build(request_id)` makes and wait for its answer.

        Args:
            build: makes the message.
            timeout_s: how long to wait at most.
            cancelled: asked now and then; the wait ends when it returns True.
            progress: called in the wire's thread with what comes before the answer.

        Raises:
            CancelledError: `cancelled` returned True; the daemon may still answer.
            DaemonUnavailable: no answer within `timeout_s`, or the daemon died.
            StreamerError: the daemon refused, with the class that the error had there.
        """
        self.refuse_after_fork()
        request_id = next(self._ids)
        answer = self._recipients.expect(request_id, progress)
        try:
            if self._over:
                raise self._lost_error() from self.error
            self._wire.put(build(request_id))
            message = self._recipients.awaited(answer, timeout_s, cancelled)
        finally:
            self._recipients.forget(request_id)
        if isinstance(message, Failed):
            raise error_from_code(message.code, message.message)
        return message

    def hand_over(self, files: Sequence[LocalFile]) -> int:
        """Pass opened files to the daemon; returns the number of the transfer.

        The daemon may use the files from then on, until `drop`.

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
        try:
            # The files may be with the daemon before `put` has returned, and an interrupt may come
            # at that moment.
            self._wire.put(lambda: self._begin_handover(handover))
            # A signal that came just before a wait does not end it, so no wait is long.
            while wait([done], timeout=CANCEL_POLL_S).not_done:
                pass
            done.result()
        except StreamerError as error:
            raise type(error)(*error.args) from error
        except BaseException:
            self._withdraw(handover)
            done.add_done_callback(lambda _: self.drop(number))
            raise
        return number

    def _withdraw(self, handover: Handover) -> None:
        """Stop a handover whose caller was interrupted, since the caller closes the files next."""
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
        """Tell the daemon that no request will name a transfer any more; loads of it go on."""
        if transfer:
            self.send(Drop(transfer))

    def listen(self, listener: LoadListener) -> int:
        """Give a new load its number and its listener; the connection lives until `unlisten`."""
        self.refuse_after_fork()
        load = next(self._ids)
        self._recipients.enter(load, listener)
        self._users.add(load)
        if self._over:
            self.unlisten(load)
            raise self._lost_error() from self.error
        return load

    def unlisten(self, load: int) -> None:
        """Tell a load nothing more; the load does not need the connection any longer."""
        self._recipients.leave(load)
        self.call_soon(lambda: self._release(load))

    def stop_listening(self, load: int) -> None:
        """Tell a load nothing more; its leases still need the connection."""
        self._recipients.leave(load)

    def close(self) -> None:
        """End the connection for the client: now, or with the last lease."""
        if self._pid != os.getpid():
            return
        self.call_soon(lambda: self._release(CLIENT))
        self._released.wait(JOIN_TIMEOUT_S)
        if not self._users:
            self._wire.join(JOIN_TIMEOUT_S)

    def abandon(self) -> None:
        """Do what `close` does without waiting, so that finalizers may call this."""
        self.call_soon(lambda: self._release(CLIENT))

    def stop(self) -> None:
        """End the connection at once, even with leases, and join the thread. Idempotent."""
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
        """Remove a user; the last one ends the wire. Runs in any thread once the wire has ended."""
        self._users.discard(user)
        if user == CLIENT:
            self._released.set()
        if not self._users:
            self._wire.stop()
            if self._over:
                self._link.close()

    def _end(self, error: StreamerError | None) -> None:
        """Tell everybody that the wire ended: after `stop` (`error` is None), or broken."""
        self.error = error
        self._over = True
        if error is not None:
            self._recipients.lose(error)
        self._users.discard(CLIENT)  # loads stay: their leases need this connection
        self._released.set()
        if not self._users or not isinstance(error, DaemonSilent):
            self._link.close()


def _world() -> int:
    """The inode of this process's mount namespace, for `Hello.world`; 0 where /proc hides it."""
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
