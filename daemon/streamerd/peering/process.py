"""The fleet's process, which `in_worker/spawner.py` forks.

The process serves other nodes and keeps this node's place in the list of members, so that neither
the network nor an engine of membership can hold the daemon up. The node is a member exactly while
this process serves. The main thread receives from the daemon. The end of file on that socket, which
the daemon's death causes too, ends the process.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import queue
import signal
import socket
import threading
from collections.abc import Sequence
from typing import Final, assert_never

import msgspec

from streamer_client.contract.errors import StreamerError
from streamerd.fleet.members.book import Book, source_of
from streamerd.fleet.serve.connection import Desk
from streamerd.fleet.serve.holdings import Held, Missing
from streamerd.fleet.serve.sending import Gate
from streamerd.fleet.serve.server import Server
from streamerd.fleet.tls import server_context
from streamerd.fleet.wire import LONGEST_WAIT_S, Asked
from streamerd.log_lines import stderr_handler
from streamerd.peering.messages import (
    Begin,
    Fellows,
    Got,
    Holding,
    Look,
    NotHeld,
    Tally,
    from_daemon,
)
from streamerd.settings.fleet import Terms
from streamerd.workers.frames import frame
from streamerd.workers.in_worker.parent import die_with_the_parent, name_process
from streamerd.workers.in_worker.receiver import DescriptorsLost, Receiver

logger = logging.getLogger(__name__)

TALLY_S: Final = 1.0
ANSWER_S: Final = 5.0
"""Seconds that the daemon may take for an answer, in addition to the time for which the answer may
wait for its block."""


class Daemon:
    """The daemon, as the serving threads see it; implements `holdings.Holdings`."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._numbers = itertools.count(1)
        self._asked: dict[int, queue.SimpleQueue[Held | Missing]] = {}

    def look(self, asked: Asked, wait_s: float) -> Held | Missing:
        """See `Holdings`. If the daemon does not answer in time, the block counts as missing."""
        number = next(self._numbers)
        answer: queue.SimpleQueue[Held | Missing] = queue.SimpleQueue()
        self._asked[number] = answer
        self.tell(Look(number, asked.shard, asked.start, asked.stop, wait_s))
        try:
            return answer.get(timeout=min(wait_s, LONGEST_WAIT_S) + ANSWER_S)
        except queue.Empty:
            if self._asked.pop(number, None) is None:
                return answer.get()  # the answer came just after the time was over
            return Missing(awaited=False, known=True)

    def answered(self, number: int, found: Held | Missing) -> None:
        """Hand an answer to the thread that asked, which may have stopped waiting."""
        answer = self._asked.pop(number, None)
        if answer is not None:
            answer.put(found)
        elif isinstance(found, Held):
            found.close()

    def tell(self, message: msgspec.Struct) -> None:
        """Send the daemon a message; no effect if the daemon is gone."""
        with self._sending:
            try:
                self._channel.sendall(frame(message))
            except OSError as error:
                logger.debug("event=daemon_gone error=%s", error)


class FleetProcess:
    """Runs the server and the list of members, as the daemon's messages say."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._daemon = Daemon(channel)
        self._book: Book | None = None
        self._server: Server | None = None

    def serve(self) -> None:
        """Obey the daemon's messages until it closes its end of the socket.

        Raises:
            StreamerError: this node cannot take part.
            DescriptorsLost: the kernel dropped a descriptor.
        """
        for body, fds in Receiver(self._channel).frames():
            match from_daemon.decode(body):
                case Begin(terms):
                    self._begin(terms)
                case Holding(number, checksum):
                    self._daemon.tell(Got(number))
                    self._daemon.answered(number, Held(fds[0], checksum))
                case NotHeld(number, awaited, known, coming):
                    self._daemon.answered(number, Missing(awaited, known, coming))
                case unknown:
                    assert_never(unknown)
        if self._server is not None:
            self._server.close()
        if self._book is not None:
            self._book.close()

    def _begin(self, terms: Terms) -> None:
        book = Book(source_of(terms), self._members_changed)
        context = server_context(terms.certificates) if terms.certificates else None
        desk = Desk(
            terms.name,
            terms.scheme,
            self._daemon,
            terms.uploads,
            Gate(terms.bandwidth_limit_bytes),
            lambda: book.members,
        )
        server = Server(terms.listen, context, desk)
        server.start()
        book.start()
        self._book, self._server = book, server
        logger.info("event=fleet_served fleet=%s listen=%s", terms.name, terms.listen)
        threading.Thread(target=self._tally, args=(desk, server), daemon=True).start()

    def _members_changed(self, me: str, members: frozenset[str], error: str) -> None:
        self._daemon.tell(Fellows(me, members, error))

    def _tally(self, desk: Desk, server: Server) -> None:
        """Tell the daemon the figures of what was served, each time that they have changed."""
        told, pause = Tally(0, {}, 0), threading.Event()
        while not pause.wait(TALLY_S):
            served = desk.served
            with served.lock:
                answers = dict(served.answers)
                now = Tally(served.sent_bytes, answers, server.connections)
            if now != told:
                self._daemon.tell(now)
                told = now


def run(channel: socket.socket, options: Sequence[str]) -> int:
    """Serve one daemon until it closes its end; returns the exit code.

    The arguments are those of `run` in `in_worker/process.py`.
    """
    parser = argparse.ArgumentParser(prog="streamerd-fleet")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-format", default="text")
    arguments = parser.parse_args(options)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_the_parent()
    name_process("streamerd-fleet")
    form = "%(levelname)s %(name)s[%(process)d] %(message)s"
    logging.basicConfig(handlers=[stderr_handler(form, arguments.log_format)])
    for ours in ("streamerd", "streamer_client"):
        logging.getLogger(ours).setLevel(arguments.log_level.upper())
    code = 0
    try:
        FleetProcess(channel).serve()
    except (StreamerError, DescriptorsLost) as error:
        logger.error("event=fleet_not_served error=%s", error)
        code = 1
    logging.shutdown()
    return code
