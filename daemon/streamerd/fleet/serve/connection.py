"""One connection of a peer: its requests, one after the other, and their answers.

The answer to a question is the block (206), the address of another holder (307), that the peer
shall ask again (503), or that the block is not here (404). Each connection runs in a thread of its
own in the fleet's process.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, assert_never

from streamerd.fleet.plan.ranking import BlockName
from streamerd.fleet.plan.uploads import Give, Later, Nothing, Reply, SendTo, Uploads
from streamerd.fleet.serve.holdings import Held, Holdings
from streamerd.fleet.serve.requests import BadRequest, Head, Heads
from streamerd.fleet.serve.sending import Gate, send_block
from streamerd.fleet.wire import (
    CHECKSUM,
    HOLDS,
    LOADS,
    NODE,
    WAIT,
    Asked,
    block_path,
    checksum_text,
    parse_asked,
    parse_wait_s,
)

MembersNow = Callable[[], frozenset[str]]
"""Returns the addresses of the members that are known now."""
_REASONS: Final = {
    200: "OK", 206: "Partial Content", 307: "Temporary Redirect", 400: "Bad Request",
    404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable",
}  # fmt: skip


@dataclass(slots=True)
class Served:
    """Counts the answers since the process started. Thread-safe by its lock."""

    sent_bytes: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    """Number of answers of each kind: `sent`, `elsewhere`, `busy`, `waiting`, `missing`, `bad` or
    `broken`."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, answer: str, sent_bytes: int = 0) -> None:
        """Count an answer."""
        with self.lock:
            self.answers[answer] = self.answers.get(answer, 0) + 1
            self.sent_bytes += sent_bytes


class Desk:
    """The parts that all connections share. Thread-safe.

    Args:
        fleet: the name of the fleet whose blocks are served.
        scheme: the scheme of the peers' URLs, `http` or `https`.
        holdings: the daemon.
        uploads: how many blocks may be sent at once.
        gate: the cap on the bytes that are sent.
        members: returns the members of the fleet.
    """

    def __init__(
        self,
        fleet: str,
        scheme: str,
        holdings: Holdings,
        uploads: int,
        gate: Gate,
        members: MembersNow,
    ) -> None:
        self.fleet = fleet
        self.scheme = scheme
        self.holdings = holdings
        self.gate = gate
        self.served = Served()
        self._members = members
        self._uploads = Uploads(uploads)
        self._slot_free = threading.Condition()

    def asked(
        self, node: str, block: BlockName, wait_s: float, *, held: bool, awaited: bool
    ) -> Reply:
        """Decide what a peer is answered; after a `Give`, the caller must call `ended`.

        While all uploads are busy and no other holder is known, a patient peer's thread waits here,
        so that the peer need not ask again and again.
        """
        until_s = time.monotonic() + wait_s
        with self._slot_free:
            while True:
                reply = self._uploads.asked(node, block, held=held, awaited=awaited)
                left_s = until_s - time.monotonic()
                if not (isinstance(reply, Later) and reply.holds) or left_s <= 0.0:
                    break
                self._slot_free.wait(left_s)
            if not isinstance(reply, Give):
                self._slot_free.notify()  # this thread needs no slot: wake another for it
            return reply

    def ended(self, node: str, block: BlockName, *, whole: bool) -> None:
        """Note that an upload ended. A peer that is no member is not named to others as holder."""
        with self._slot_free:
            self._uploads.ended(node, block, whole=whole and node in self._members())
            self._slot_free.notify()


class Connection:
    """Serves one connection until it ends.

    Args:
        connected: the peer's socket, after any handshake.
        desk: shared by all connections.
    """

    def __init__(self, connected: socket.socket, desk: Desk) -> None:
        self._socket = connected
        self._desk = desk
        self._heads = Heads(connected)

    def serve(self) -> None:
        """Answer until the peer closes the connection, is silent, or sends a bad request.

        Raises:
            OSError: the connection broke.
        """
        try:
            while (head := self._heads.next()) is not None:
                self._answer(head)
        except BadRequest:
            self._desk.served.count("bad")
            self._say(400, close=True)

    def _answer(self, head: Head) -> None:
        if head.method not in ("GET", "HEAD"):
            raise BadRequest(head.method)
        asked = parse_asked(head.path, head.fields.get("range", ""))
        if asked is None:
            raise BadRequest(head.path)
        if asked.fleet != self._desk.fleet:
            self._desk.served.count("missing")
            self._say(404, {LOADS: "0"})
            return
        wait_s = parse_wait_s(head.fields.get(WAIT, ""))
        found = self._desk.holdings.look(asked, wait_s)
        if not isinstance(found, Held):
            if found.coming:
                self._desk.served.count("waiting")
                self._say(503, {HOLDS: "1"})
                return
            self._reply(head, asked, None, 0.0, awaited=found.awaited, known=found.known)
            return
        try:
            if head.method == "HEAD":
                self._say(200, {CHECKSUM: checksum_text(found.checksum)})
            else:
                self._reply(head, asked, found, wait_s, awaited=False, known=True)
        finally:
            found.close()

    def _reply(
        self,
        head: Head,
        asked: Asked,
        held: Held | None,
        wait_s: float,
        *,
        awaited: bool,
        known: bool,
    ) -> None:
        node = head.fields.get(NODE, "")
        block = BlockName(asked.shard, asked.start, asked.stop)
        served = self._desk.served
        reply = self._desk.asked(node, block, wait_s, held=held is not None, awaited=awaited)
        match reply:
            case Give():
                assert held is not None
                self._send(node, block, held)
            case SendTo(holder):
                served.count("elsewhere")
                path = block_path(asked.fleet, asked.shard)
                self._say(307, {"location": f"{self._desk.scheme}://{holder}{path}"})
            case Later(holds):
                served.count("busy" if holds else "waiting")
                self._say(503, {HOLDS: str(int(holds))})
            case Nothing():
                served.count("missing")
                self._say(404, {LOADS: str(int(known))})
            case _ as unknown:
                assert_never(unknown)

    def _send(self, node: str, block: BlockName, held: Held) -> None:
        length, whole = block.stop - block.start, False
        try:
            self._say(
                206,
                {
                    "content-range": f"bytes {block.start}-{block.stop - 1}/*",
                    CHECKSUM: checksum_text(held.checksum),
                },
                length=length,
            )
            send_block(self._socket, held.fd, block.start, block.stop, self._desk.gate)
            whole = True
        finally:
            self._desk.ended(node, block, whole=whole)
            self._desk.served.count("sent" if whole else "broken", length if whole else 0)

    def _say(
        self,
        status: int,
        fields: dict[str, str] | None = None,
        length: int = 0,
        *,
        close: bool = False,
    ) -> None:
        told = {"content-length": str(length), **(fields or {})}
        if close:
            told["connection"] = "close"
        lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{k}: {v}" for k, v in told.items())]
        self._socket.settimeout(10.0)
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
