"""The thread that talks to the daemon: its two sockets, and how other threads wake it.

Owns sending, receiving, heartbeats, and noticing that the daemon is gone. `recipients.py` owns what
messages mean; its `receive` and `slabs` are called in this thread. Other threads only append to the
outbox, without a lock, because finalizers do so wherever the garbage collector runs them.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamer_client.connecting.descriptors import DescriptorLink
from streamer_client.contract.checks import check
from streamer_client.contract.codec import decode_daemon, encode
from streamer_client.contract.errors import DaemonUnavailable, StreamerError
from streamer_client.contract.layout import merged
from streamer_client.contract.messages import Consumed, DaemonMessage, Goodbye, Heartbeat, Message

logger = logging.getLogger(__name__)

MISSED_HEARTBEATS: Final = 3
GOODBYE_LINGER_MS: Final = 500
"""How long the last messages may take to leave and to be read; there is no wait for a dead daemon.
"""
# The wire never reconnects, so each of these events ends it.
_ENDS: Final = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


class DaemonSilent(DaemonUnavailable):
    """The daemon does not answer, yet it may live on and take back the blocks that it granted."""


class Pulse:
    """When a heartbeat is due, and when the daemon has left too many of them unanswered. Pure.

    Unanswered heartbeats are counted, not seconds: a process that was itself stopped or starved for
    long must not take a living daemon for dead.
    """

    def __init__(self, socket_path: str) -> None:
        self.heartbeat_s: float | None = None
        """Seconds between two heartbeats; None until the daemon told the time."""
        self._socket_path = socket_path
        self._unanswered = 0
        self._next_s = 0.0

    def heard(self) -> None:
        """Note that the daemon said something, and so lives."""
        self._unanswered = 0

    def due_s(self, now_s: float) -> float | None:
        """Seconds until the next heartbeat; None before the first may be sent."""
        return None if self.heartbeat_s is None else max(0.0, self._next_s - now_s)

    def beats(self, now_s: float) -> bool:
        """Whether to send a heartbeat now; if so, it counts as sent.

        Raises:
            DaemonSilent: the daemon left earlier heartbeats unanswered.
        """
        if self.heartbeat_s is None or now_s < self._next_s:
            return False
        if self._unanswered >= MISSED_HEARTBEATS:
            raise DaemonSilent(
                f"the daemon at {self._socket_path} left {MISSED_HEARTBEATS} heartbeats unanswered"
            )
        self._unanswered += 1
        self._next_s = now_s + self.heartbeat_s
        return True


class Wire:
    """The socket and thread of one connection; a new connection needs a new wire."""

    def __init__(
        self,
        socket_path: str,
        link: DescriptorLink,
        receive: Callable[[DaemonMessage], None],
        slabs: Callable[[int, tuple[int, ...], list[int]], None],
        ended: Callable[[StreamerError | None], None],
    ) -> None:
        """Start the thread.

        Args:
            socket_path: path of the control socket.
            link: the greeted connection to the descriptor socket; its owner closes it.
            receive: called with each message.
            slabs: called with a load, its shards, and the descriptors of their slabs.
            ended: called once at the end: with None after `stop`, else with the error.
        """
        self.pulse = Pulse(socket_path)
        self._socket_path = socket_path
        self._link = link
        self._token = link.greeting.token
        self._receive = receive
        self._slabs = slabs
        self._ended = ended
        self._outbox: deque[Message | Callable[[], None]] = deque()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stopping = False
        self._alive = True
        self._thread = threading.Thread(
            target=self._run, name=f"streamer-wire-{socket_path}", daemon=True
        )
        self._thread.start()

    # --- any thread ------------------------------------------------------------------------------

    def put(self, item: Message | Callable[[], None]) -> None:
        """Queue a message, or a call to make in the wire's thread, without blocking or locking."""
        self._outbox.append(item)
        self._wake()
        if not self._alive:
            self._call_left()

    def stop(self) -> None:
        """Send the queued messages and Goodbye, then end. Idempotent, does not wait."""
        self._stopping = True
        self._wake()

    def join(self, timeout_s: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _wake(self) -> None:
        if self._alive:
            with contextlib.suppress(OSError):  # the thread has ended and closed it
                os.eventfd_write(self._wakeup, 1)

    # --- the wire's thread -----------------------------------------------------------------------

    def _run(self) -> None:
        context = zmq.Context()
        failure: StreamerError | None = None
        try:
            with contextlib.closing(context.socket(zmq.DEALER)) as dealer:
                self._serve(dealer)
        except StreamerError as error:
            failure = error
        except Exception as error:
            logger.exception("event=wire_failed socket=%s", self._socket_path)
            failure = DaemonUnavailable(f"the connection to {self._socket_path} broke: {error}")
        finally:
            context.term()
            if failure is None:
                self._link.wait_for_end(GOODBYE_LINGER_MS)
            self._ended(failure)
            self._link.lose(failure or self._gone())
            self._alive = False
            wakeup, self._wakeup = self._wakeup, -1
            os.close(wakeup)
            self._call_left()

    def _call_left(self) -> None:
        """Make the calls left in the outbox and drop its messages, as the thread ends."""
        with contextlib.suppress(IndexError):
            while True:
                item = self._outbox.popleft()
                if not isinstance(item, Message):
                    item()

    def _serve(self, dealer: zmq.Socket[bytes]) -> None:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.SNDHWM, 0)
        dealer.setsockopt(zmq.RCVHWM, 0)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        with self._watched(dealer) as monitor:
            dealer.connect(f"ipc://{self._socket_path}")
            poller = zmq.Poller()
            for source in (dealer, monitor, self._wakeup, self._link.fileno()):
                poller.register(source, zmq.POLLIN)
            while True:
                self._flush(dealer)
                if self._stopping:
                    dealer.setsockopt(zmq.LINGER, GOODBYE_LINGER_MS)
                    with contextlib.suppress(zmq.Again):  # the daemon is already gone
                        dealer.send(self._token + encode(Goodbye()), zmq.NOBLOCK)
                    return
                ready = dict(poller.poll(self._poll_ms()))
                if self._wakeup in ready:
                    os.eventfd_read(self._wakeup)
                disconnected = monitor in ready and _disconnected(monitor)
                self._receive_all(dealer)
                if self._link.fileno() in ready:
                    self._link.receive(self._slabs)
                if self._link.due_s == 0:
                    self._link.flush()
                if disconnected:
                    raise self._gone()
                if self.pulse.beats(time.monotonic()):
                    self._outbox.append(Heartbeat())

    @contextlib.contextmanager
    def _watched(self, dealer: zmq.Socket[bytes]) -> Iterator[zmq.Socket[bytes]]:
        monitor = dealer.get_monitor_socket(_ENDS)
        try:
            yield monitor
        finally:
            dealer.disable_monitor()
            monitor.close(linger=0)

    def _flush(self, dealer: zmq.Socket[bytes]) -> None:
        """Send the outbox; calls in it may add to it."""
        while self._outbox:
            messages: list[Message] = []
            while self._outbox:
                item = self._outbox.popleft()
                if isinstance(item, Message):
                    messages.append(item)
                else:
                    item()
            for message in coalesced(messages):
                try:
                    dealer.send(self._token + encode(message), zmq.NOBLOCK)
                except zmq.Again as error:  # no queue limit is set, so the peer is gone
                    raise self._gone() from error

    def _gone(self) -> DaemonUnavailable:
        return DaemonUnavailable(f"the daemon at {self._socket_path} closed the connection or died")

    def _receive_all(self, dealer: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                frame = dealer.recv(zmq.NOBLOCK)
                self.pulse.heard()
                message = decode_daemon(frame)
                check(message)
                self._receive(message)

    def _poll_ms(self) -> int | None:
        waits_s = [] if self._link.due_s is None else [self._link.due_s]
        if (due_s := self.pulse.due_s(time.monotonic())) is not None:
            waits_s.append(due_s)
        return int(min(waits_s) * 1000) + 1 if waits_s else None


def coalesced(messages: list[Message]) -> Iterator[Message]:
    """The same messages, with successive `Consumed` of one load merged into one."""

    def key(pair: tuple[int, Message]) -> tuple[str, int]:
        place, message = pair
        return ("consumed", message.load) if isinstance(message, Consumed) else ("other", place)

    for (kind, load), run in itertools.groupby(enumerate(messages), key):
        group = [message for _, message in run]
        if kind == "consumed":
            ranges = (item for one in group if isinstance(one, Consumed) for item in one.ranges)
            yield Consumed(load, merged(ranges))
        else:
            yield from group


def _disconnected(monitor: zmq.Socket[bytes]) -> bool:
    seen = False
    with contextlib.suppress(zmq.Again):
        while True:
            event = recv_monitor_message(monitor, zmq.NOBLOCK)
            seen = seen or bool(event["event"] & _ENDS)
    return seen
