"""A stand-in daemon for streamerctl: both sockets, in a thread that answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from streamer_client.contract.codec import decode_client, encode
from streamer_client.contract.handover import TOKEN_BYTES
from streamer_client.contract.messages import (
    PROTOCOL,
    DaemonMessage,
    Drop,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Welcome,
)
from tests.support.descriptor_end import DescriptorEnd, Manners, Session

Answer = Callable[[Message], list[DaemonMessage]]


class AnsweringDaemon:
    """Welcomes everybody, takes every file, and leaves the rest to `answer`; a context manager.

    Attributes:
        received: every message, in order.
        handed: for each message that had a transfer, the names of its files.
    """

    def __init__(self, directory: Path, answer: Answer, heartbeat_s: float = 5.0) -> None:
        self.socket_path = str(directory / "control.sock")
        self.heartbeat_s = heartbeat_s
        self.received: list[Message] = []
        self.handed: list[tuple[str, ...]] = []
        self._answer = answer
        self._stop = threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(f"ipc://{self.socket_path}")
            ends = DescriptorEnd(self.socket_path, Manners())
            self._listening.set()
            while not self._stop.is_set():
                self._turn(router, ends)
            ends.close()

    def _turn(self, router: zmq.Socket[bytes], ends: DescriptorEnd) -> None:
        poller = zmq.Poller()
        for source in (router, *ends.sources()):
            poller.register(source, zmq.POLLIN)
        if router in dict(poller.poll(20)):
            client, frame = router.recv_multipart()
            session = ends.sessions[frame[:TOKEN_BYTES]]
            for answer in self._answers(session, decode_client(frame[TOKEN_BYTES:])):
                router.send_multipart([client, encode(answer)])
        ends.serve(poller)

    def _answers(self, session: Session, message: Message) -> list[DaemonMessage]:
        self.received.append(message)
        if transfer := getattr(message, "transfer", 0):
            self.handed.append(tuple(pair.name for pair in session.transfers.get(transfer, ())))
        match message:
            case Hello(request_id=request_id):
                welcome = Welcome(
                    request_id,
                    PROTOCOL,
                    self.heartbeat_s,
                    session.proof,
                )
                return [welcome]
            case Heartbeat():
                return [message]
            case Drop(transfer=transfer):
                session.drop(transfer)
                return []
            case Goodbye():
                session.hang_up()
                return []
            case _:
                return self._answer(message)
