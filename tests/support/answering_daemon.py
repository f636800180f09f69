"""A daemon's stand-in for streamerctl: a real ROUTER in a thread that answers as a test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq

from streamer_client.contract.messages import (
    PROTOCOL,
    DaemonMessage,
    Heartbeat,
    Hello,
    Message,
    Welcome,
    decode_client,
    encode,
)

Answer = Callable[[Message], list[DaemonMessage]]


class AnsweringDaemon:
    """Welcomes everybody, echoes heartbeats, and leaves the rest to `answer`; a context manager."""

    def __init__(self, directory: Path, answer: Answer, heartbeat_s: float = 5.0) -> None:
        self.socket_path = str(directory / "control.sock")
        self.heartbeat_s = heartbeat_s
        self.received: list[Message] = []
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
            self._listening.set()
            while not self._stop.is_set():
                if router.poll(20):
                    client, frame = router.recv_multipart()
                    for answer in self._answers(decode_client(frame)):
                        router.send_multipart([client, encode(answer)])

    def _answers(self, message: Message) -> list[DaemonMessage]:
        self.received.append(message)
        match message:
            case Hello(request_id=request_id):
                return [Welcome(request_id, PROTOCOL, "0.1.0", 1, "1a2b3c4d", self.heartbeat_s)]
            case Heartbeat():
                return [message]
            case _:
                return self._answer(message)
