"""The connections that libzmq has accepted: how many, whose, and which are too many.

libzmq accepts whoever connects, keeps whoever then says nothing, and ends the whole process where
accept(2) finds no descriptor left. Nor can it be told to stop for a while: what it has accepted
ends with its listening. So its socket's monitor tells of each connection here, and libzmq's thread
waits where this loop is too far behind to hear of more; one that presents no token in time is shut
down, soon where there are many, and where there are too many, the oldest at once. Runs in the
daemon's loop.
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
"""Who connects and presents no token within this is let go. A client has its token before, presents
it as soon as it is connected, and waits no longer for the answer itself."""
CROWDED_CLAIM_S: Final = 0.25
"""The same, where there are more than enough."""
SWEEP_S: Final = 0.1
TELL_S: Final = 60.0
"""The log says no more often than this that there are too many."""
SPARE_DESCRIPTORS: Final = 128
"""Below the limit of open files: kept for what does not ask here, such as slabs and workers."""
NOTES_A_TURN: Final = 128
"""Of the monitor; after so many the loop sees to other things first."""
UNHEARD: Final = 503
"""So many connections at most libzmq accepts or ends without this loop knowing: then its thread
waits. It comes of what follows."""
_AT_FIRST, _SINCE = 502, 1
"""High-water marks of this end of the monitor, when it is connected and from then on. libzmq's end
waits at their sum; and it goes on when told that half of 1,000 (its own mark, which is not ours to
choose) and `_SINCE` were read, which must be no more than that sum, or it would wait for ever."""
_EVENTS: Final = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_MONITOR_STOPPED


@dataclass(slots=True, eq=False)
class Accepted:
    """One connection."""

    descriptor: int
    """That libzmq has of it."""
    socket: str
    """Which socket it is, as the kernel calls it: descriptors' numbers come again."""
    since_s: float
    claimed: bool = False
    ended: bool = False
    """Whether it was shut down; libzmq tells when it has let go of it."""


class Connections:
    """Those of a socket that is bound here.

    Args:
        router: the socket; nobody else binds or closes it.
        path: which it is bound to.
        most: more than so many are many, and more than twice as many too many.
        descriptor_limit: of this process.
    """

    def __init__(
        self, router: zmq.Socket[bytes], path: str, most: int, descriptor_limit: int
    ) -> None:
        self._router = router
        self._path = path
        self._most = most
        self._highest = descriptor_limit - SPARE_DESCRIPTORS
        self._monitor: zmq.Socket[bytes] = router.context.socket(zmq.PAIR)
        self._accepted: dict[int, Accepted] = {}
        """In order of age."""
        self._ended = 0
        """Of those, which were shut down."""
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told_s = -TELL_S

    def __len__(self) -> int:
        """Those that were not shut down."""
        return len(self._accepted) - self._ended

    def open(self, listening: int) -> None:
        """Let libzmq serve a listening socket; its descriptor is taken over.

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
        # Read to its end: libzmq's thread may wait for that, and `close` would for its thread.
        while opened and self._heard()[0] != zmq.EVENT_MONITOR_STOPPED:
            pass
        self._monitor.close(linger=0)

    @property
    def _descriptor(self) -> int:
        return int(self._monitor.getsockopt(zmq.FD))

    # --- what libzmq tells ----------------------------------------------------------------------

    def look(self) -> None:
        """Take note of what was accepted and what ended, and act on it."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        with contextlib.suppress(zmq.Again):
            for _ in range(NOTES_A_TURN):
                self._note(*self._heard(zmq.NOBLOCK))
                if len(self) > 2 * self._most or self._is_short():
                    self._end_oldest()
            # The descriptor tells of what comes, not of what is left.
            self._again = self._loop.call_soon(self.look)
        if self._timer is None and not all(each.claimed for each in self._accepted.values()):
            self._timer = self._loop.call_later(SWEEP_S, self._sweep)

    def _heard(self, flags: int = 0) -> tuple[int, int]:
        """What happened, and to which descriptor."""
        event = parse_monitor_message(self._monitor.recv_multipart(flags))
        return event["event"], event["value"]

    def _note(self, event: int, descriptor: int) -> None:
        known = self._accepted.pop(descriptor, None)
        self._ended -= known is not None and known.ended
        if event == zmq.EVENT_ACCEPTED:
            with contextlib.suppress(OSError):  # it has ended since; that is told next
                self._accepted[descriptor] = Accepted(
                    descriptor, _named(descriptor), self._loop.time()
                )

    def claim(self, descriptor: int) -> Accepted | None:
        """A valid token came over this connection; None when it has ended already."""
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
        """Whether few descriptors are left: what is accepted gets the lowest free one."""
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

    def end(self, accepted: Accepted) -> None:
        """Shut a connection down, and with it drop what libzmq still has for it.

        Only this one: when it has ended before, another may have its descriptor by now.
        """
        if self._accepted.get(accepted.descriptor) is accepted and not accepted.ended:
            self._shut_down(accepted)

    def _shut_down(self, accepted: Accepted) -> None:
        """Only if it still is what was accepted: libzmq may have closed it meanwhile.

        The name is looked at before the descriptor is copied: closing a copy of a client's file,
        should the number be one's by now, could hang. Such come to this thread alone.
        """
        try:
            if _named(accepted.descriptor) != accepted.socket:
                return
            copy = os.dup(accepted.descriptor)
        except OSError:
            return  # closed, which is told next; or no descriptor is left, and it is tried again
        accepted.ended = True
        self._ended += 1
        with socket.socket(fileno=copy) as connection, contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _named(descriptor: int) -> str:
    """Which open file a descriptor is, without a question that its file system could hang on."""
    return os.readlink(f"/proc/self/fd/{descriptor}")
