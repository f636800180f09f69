"""Stand-ins for what the daemon's loop talks to: processes, sockets and descriptors.

Every message that would travel is encoded and decoded; nothing is sent.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Sequence
from unittest import mock

from streamer_client.contract import messages
from streamer_client.contract.codec import encode
from streamer_client.contract.handover import (
    BATCH_DESCRIPTORS,
    Slabs,
    encode_packet,
)
from streamerd.control.descriptors import DescriptorSocket, SlabOpener
from streamerd.control.sessions import Session, Sessions
from streamerd.control.socket import ControlSocket
from streamerd.workers import frames, jobs
from streamerd.workers.in_daemon.supervisor import OnAnswer, Workers


class PaperWorkers(Workers):
    """Workers without processes: jobs are encoded and kept until the benchmark answers them."""

    def __init__(self, workers: int, threads: int) -> None:
        super().__init__(workers, threads)
        self.submitted: deque[tuple[jobs.AnyJob, OnAnswer]] = deque()
        self.frames = frames.FrameBuffer()
        self.sent_bytes = 0

    def submit(
        self,
        job: jobs.AnyJob,
        on_answer: OnAnswer,
        fds: tuple[int, ...] = (),  # noqa: ARG002  no process receives them
        limit_s: float | None = None,  # noqa: ARG002  every job is answered
    ) -> None:
        self.sent_bytes += len(frames.frame(job))
        self.submitted.append((job, on_answer))

    def broadcast(
        self, make_job: Callable[[int], jobs.AnyJob], on_done: Callable[[], None]
    ) -> None:
        self.sent_bytes += len(frames.frame(make_job(self.next_job())))
        on_done()

    def receive(self, data: bytes, callbacks: dict[int, OnAnswer]) -> None:
        """Decode the bytes of some answers as the channel does, and call their callbacks."""
        for body in self.frames.feed(data):
            answer = jobs.answer_decoder.decode(body)
            callbacks.pop(answer.job)(answer)


class PaperSocket(ControlSocket):
    """A control socket that only encodes messages and keeps them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []

    def send(self, name: str, message: messages.Message) -> bool:
        self.sent.append((name, encode(message)))
        return True


class PaperDescriptors(DescriptorSocket):
    """A descriptor socket that has every slab opened, and sends none."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    def hand_out(
        self,
        session: Session,  # noqa: ARG002  nobody is connected
        load: int,
        shards: Sequence[int],
        opener: SlabOpener,
    ) -> None:
        for first in range(0, len(shards), BATCH_DESCRIPTORS):
            batch = tuple(shards[first : first + BATCH_DESCRIPTORS])
            for shard in batch:
                opener(load, shard)
            self.sent_bytes += len(encode_packet(Slabs(load, batch)))


class PaperSessions(Sessions):
    """The sessions of one user, without connections."""

    def join(self, pid: int) -> Session:
        """Add a session, as if one more client had connected."""
        session = Session(str(pid), pid, 1000, 1000, mock.Mock(spec=socket.socket))
        self._by_name[session.name] = session
        self._by_token[session.token] = session
        return session
