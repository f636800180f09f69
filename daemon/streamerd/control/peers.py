"""Who is connected, and how their end is noticed.

A peer whose pid the kernel shows us is watched by pidfd: its leases end with its process and not
before, however long it is stopped, since it may be reading its slabs. Only for a peer in a pid
namespace that we cannot see do missed heartbeats decide, after a long time.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

logger = logging.getLogger(__name__)

BLIND_HEARTBEATS: Final = 60
"""Missed heartbeats after which a peer that cannot be watched is taken for dead."""


@dataclass(slots=True, eq=False)
class Peer:
    """One connected client process."""

    name: str
    pid: int
    label: str
    seen_s: float
    pidfd: int = -1

    @property
    def watched(self) -> bool:
        return self.pidfd >= 0


class Peers:
    """The peers by name; calls `gone` once for each that leaves or dies."""

    def __init__(self, gone: Callable[[str], None], heartbeat_s: float) -> None:
        self._gone = gone
        self._heartbeat_s = heartbeat_s
        self._peers: dict[str, Peer] = {}
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(self._peers.values())

    def get(self, name: str) -> Peer | None:
        return self._peers.get(name)

    def add(self, name: str, pid: int, told_pid: int, label: str) -> Peer:
        """Greet a peer. `pid` is the kernel's word, `told_pid` the peer's own, for showing only."""
        self.remove(name)
        peer = Peer(name, pid or told_pid, label, self._loop.time())
        self._peers[name] = peer
        if pid:
            self._watch(peer)
        return peer

    def _watch(self, peer: Peer) -> None:
        try:
            peer.pidfd = os.pidfd_open(peer.pid)
        except ProcessLookupError:
            self._loop.call_soon(self._end, peer, "process ended")
        except OSError as error:
            logger.warning("peer not watched pid=%d error=%s", peer.pid, error.strerror)
        else:
            self._loop.add_reader(peer.pidfd, self._end, peer, "process ended")

    def remove(self, name: str) -> None:
        """Forget a peer that said goodbye."""
        peer = self._peers.pop(name, None)
        if peer is not None and peer.watched:
            self._loop.remove_reader(peer.pidfd)
            os.close(peer.pidfd)
            peer.pidfd = -1

    def reap(self) -> None:
        """End peers that cannot be watched and have been silent for long."""
        limit_s = BLIND_HEARTBEATS * self._heartbeat_s
        for peer in list(self._peers.values()):
            if not peer.watched and self._loop.time() - peer.seen_s > limit_s:
                self._end(peer, "silent")

    def _end(self, peer: Peer, reason: str) -> None:
        if self._peers.get(peer.name) is peer:
            logger.info("client gone pid=%d label=%r reason=%s", peer.pid, peer.label, reason)
            self.remove(peer.name)
            self._gone(peer.name)

    def close(self) -> None:
        for name in list(self._peers):
            self.remove(name)
