"""Watches the connections that libzmq has accepted, and ends those that are too many.

libzmq accepts every connection, leaves silent ones open, and ends the whole process if accept(2)
finds no descriptor left. It cannot be told to stop accepting for a while: if it stopped listening,
all accepted connections would end. So this module reads the reports of the socket's monitor about
each connection; libzmq's thread waits if this loop has too many reports still to read. A connection
that presents no token in time is shut down. The time is shorter if there are many connections, and
if there are too many, the oldest is shut down at once. Runs in the daemon's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from dataclasses import dataclass
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from streamer_client.contract.errors import ConfigError

logger = logging.getLogger(__name__)

CLAIM_S: Final = 5.0
"""A connection that presents no token within this time is shut down. A client has its token before
it connects, presents it at once, and waits no longer than this for the answer itself."""
CROWDED_CLAIM_S: Final = 0.25
"""The same time limit if there are many connections."""
SWEEP_S: Final = 0.1
TELL_S: Final = 60.0
"""Seconds between two log lines that say that there are too many connections."""
SPARE_DESCRIPTORS: Final = 128
"""Descriptors that are kept free of connections, for slabs and workers."""
NOTES_A_TURN: Final = 128
"""After this many of the monitor's reports the loop does other work first."""
UNHEARD: Final = 503
"""libzmq's thread waits once this loop has not read this many reports of connections that libzmq
accepted or ended. The number is the sum of the two below."""
_AT_FIRST, _SINCE = 502, 1
"""High-water marks of this end of the monitor: the first while it is connected, the second from
then on. libzmq's end waits at their sum. It goes on once it is told that half of 1,000 (its own
mark, which cannot be chosen here) and `_SINCE` reports were read. These must be no more than the
sum, or libzmq would wait for ever."""
_EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED


@dataclass(slots=True, eq=False)
class AcceptedConnection:
    """One connection that libzmq has accepted."""

    descriptor: int
    """libzmq's own descriptor of the connection."""
    socket: str
    """The kernel's name of the socket, since another file may later get the descriptor's number."""
    since_s: float
    claimed: bool = False
    ended: bool = False
    """Whether this module has shut it down. libzmq reports later that it has closed its
    descriptor."""


class AcceptedConnections:
    """The connections of one socket, which is bound and closed here.

    Args:
        router: the socket.
        path: the path that it is bound to.
        most: more connections than this are many, and more than twice as many are too many.
        descriptor_limit: how many files this process may have open.
    """

    def __init__(
        self, router: zmq.Socket[bytes], path: str, most: int, descriptor_limit: int
    ) -> None:
        self._router = router
        self._path = path
        self._most = most
        self._highest = descriptor_limit - SPARE_DESCRIPTORS
        self._monitor: zmq.Socket[bytes] = router.context.socket(zmq.PAIR)
        self._accepted: dict[int, AcceptedConnection] = {}
        """The connections that libzmq has accepted, the oldest first."""
        self._ended = 0
        """How many of `_accepted` were shut down."""
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told_s = -TELL_S

    def __len__(self) -> int:
        """The number of connections that were not shut down."""
        return len(self._accepted) - self._ended

    def open(self, listening: int) -> None:
        """Let libzmq serve a listening socket; libzmq closes its descriptor.

        Raises:
            ConfigError: libzmq cannot serve it.
        """
        place = f"inproc://connections-{id(self)}"
        self._router.monitor(place, _EVENTS)
        self._monitor.rcvhwm = _AT_FIRST
        self._monitor.connect(place)
        self._monitor.rcvhwm = _SINCE
        try:
            # Given a descriptor, libzmq neither makes the socket file nor unlinks it at the end: it
            # would do so by name, whosever file that is by then.
            self._router.setsockopt(zmq.USE_FD, listening)
            self._router.bind(f"ipc://{self._path}")
        except (zmq.ZMQError, OSError) as error:
            raise ConfigError(f"cannot listen on {self._path}: {error}") from error
        self._loop.add_reader(self._descriptor, self.look)
        self.look()

    def close(self) -> None:
        """Close the socket, with all connections."""
        for timer in (self._again, self._timer):
            if timer is not None:
                timer.cancel()
        self._loop.remove_reader(self._descriptor)
        opened = bool(self._monitor.getsockopt(zmq.LAST_ENDPOINT))
        self._router.close()
        # libzmq's thread may wait until its reports are read, and closing waits for that thread.
        while opened and self._heard()[0] != zmq.EVENT_MONITOR_STOPPED:
            pass
        self._monitor.close(linger=0)

    @property
    def _descriptor(self) -> int:
        return int(self._monitor.getsockopt(zmq.FD))

    # --- what libzmq tells ----------------------------------------------------------------------

    def look(self) -> None:
        """Read the monitor's reports, and shut down connections if there are too many."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        with contextlib.suppress(zmq.Again):
            for _ in range(NOTES_A_TURN):
                self._note(*self._heard(zmq.NOBLOCK))
                if len(self) > 2 * self._most or self._is_short():
                    self._end_oldest()
            # The monitor's descriptor signals new reports only, not those that are left.
            self._again = self._loop.call_soon(self.look)
        if self._timer is None and not all(each.claimed for each in self._accepted.values()):
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def _heard(self, flags: int = 0) -> tuple[int, int]:
        """The monitor's next report: what happened, and to which descriptor."""
        event = parse_monitor_message(self._monitor.recv_multipart(flags))
        return event["event"], event["value"]

    def _note(self, event: int, descriptor: int) -> None:
        known = self._accepted.pop(descriptor, None)
        self._ended -= known is not None and known.ended
        if event == zmq.EVENT_ACCEPTED:
            with contextlib.suppress(OSError):  # the connection has ended, as the next report says
                self._accepted[descriptor] = AcceptedConnection(
                    descriptor, _named(descriptor), self._loop.time()
                )

    def claim(self, descriptor: int) -> AcceptedConnection | None:
        """Note that a valid token came over a connection; None if it has ended already."""
        while descriptor not in self._accepted:
            before = len(self._accepted)
            self.look()
            if len(self._accepted) == before:
                return None
        accepted = self._accepted[descriptor]
        accepted.claimed = True
        return accepted

    # --- what is done about it ------------------------------------------------------------------

    def _end_oldest(self) -> None:
        self._tell()
        for accepted in self._accepted.values():
            if not accepted.claimed and not accepted.ended:
                self._shut_down(accepted)
                return

    def _is_short(self) -> bool:
        """Whether few descriptors are left: the newest connection got the lowest free number."""
        return bool(self._accepted) and next(reversed(self._accepted)) > self._highest

    def _tell(self) -> None:
        now_s = self._loop.time()
        if now_s >= self._told_s + TELL_S:
            self._told_s = now_s
            logger.warning(
                "event=too_many_connections connections=%d most=%d effect=%r",
                len(self), 2 * self._most, "those without a token are ended",
            )  # fmt: skip

    def _sweep(self) -> None:
        self._timer = None
        crowded = len(self) > self._most
        latest_s = self._loop.time() - (CROWDED_CLAIM_S if crowded else CLAIM_S)
        for accepted in self._accepted.values():
            if not accepted.claimed and not accepted.ended and accepted.since_s <= latest_s:
                self._shut_down(accepted)
        self.look()

    def end(self, accepted: AcceptedConnection) -> None:
        """Shut a connection down; libzmq then drops the messages that it still has for it.

        No effect if the connection has ended before, since another one may have its descriptor.
        """
        if self._accepted.get(accepted.descriptor) is accepted and not accepted.ended:
            self._shut_down(accepted)

    def _shut_down(self, accepted: AcceptedConnection) -> None:
        """Shut the socket down, unless libzmq has closed its descriptor.

        If libzmq has closed it, a client's file may have the descriptor's number now, and closing a
        copy of such a file could hang. So the socket's name is compared before the descriptor is
        copied. No file can come in between, because only this thread receives clients' files.
        """
        try:
            if _named(accepted.descriptor) != accepted.socket:
                return
            copy = os.dup(accepted.descriptor)
        except OSError:
            return  # libzmq closed it and reports that next, or no descriptor is left just now
        accepted.ended = True
        self._ended += 1
        with socket.socket(fileno=copy) as connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _named(descriptor: int) -> str:
    """The kernel's name of an open file. Reading the name does not involve the file system."""
    return os.readlink(f"/proc/self/fd/{descriptor}")
