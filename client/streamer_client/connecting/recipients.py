"""Who waits for a message of the daemon: requests for their answers, loads for their events.

Owns which caller a message belongs to, and tells everybody of the end of the connection. The wire's
thread calls `receive`, `slabs` and `lose`; callers' threads call the rest. The only I/O here is to
close the descriptors of slabs whose load is gone.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Final, Protocol

from streamer_client.contract.errors import DaemonUnavailable, StreamerError, error_from_code
from streamer_client.contract.layout import BlockRange
from streamer_client.contract.messages import (
    Compared,
    Comparing,
    CredentialsWanted,
    DaemonMessage,
    Failed,
    Granted,
    Heartbeat,
    Opened,
    ShardFailed,
    Verifying,
    Waiting,
)

logger = logging.getLogger(__name__)

CANCEL_POLL_S: Final = 0.25

Progress = Callable[[Verifying], None]


class LoadListener(Protocol):
    """A load, which the wire's thread tells what the daemon says about it."""

    def on_opened(self, message: Opened) -> None: ...
    def on_slabs(self, shards: tuple[int, ...], descriptors: list[int]) -> None: ...
    def on_comparing(self) -> None: ...
    def on_compared(self) -> None: ...
    def on_granted(self, ranges: tuple[BlockRange, ...]) -> None: ...
    def on_shard_failed(self, shard: int, error: StreamerError) -> None: ...
    def on_waiting(self, message: Waiting) -> None: ...
    def on_credentials_wanted(self) -> None: ...
    def on_lost(self, error: StreamerError) -> None: ...


class Recipients:
    """The requests and loads that wait on one connection.

    Args:
        socket_path: path of the daemon's control socket, for the text of errors.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._answers: dict[int, Future[DaemonMessage]] = {}
        self._progress: dict[int, Progress] = {}
        self._listeners: dict[int, LoadListener] = {}

    # --- callers' threads ------------------------------------------------------------------------

    def expect(self, request_id: int, progress: Progress | None = None) -> Future[DaemonMessage]:
        """Register a request before it is sent; the future will hold its answer.

        Args:
            request_id: number of the request.
            progress: called in the wire's thread with messages that precede the answer.
        """
        answer: Future[DaemonMessage] = Future()
        self._answers[request_id] = answer
        if progress is not None:
            self._progress[request_id] = progress
        return answer

    def forget(self, request_id: int) -> None:
        """Stop waiting for the answer to a request."""
        self._answers.pop(request_id, None)
        self._progress.pop(request_id, None)

    def awaited(
        self,
        answer: Future[DaemonMessage],
        timeout_s: float | None,
        cancelled: Callable[[], bool],
    ) -> DaemonMessage:
        """Wait for an answer.

        Raises:
            CancelledError: `cancelled` returned True; the daemon may still answer.
            DaemonUnavailable: no answer within `timeout_s`, or the daemon died.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = math.inf if deadline is None else deadline - time.monotonic()
            try:
                return answer.result(max(0.0, min(left_s, CANCEL_POLL_S)))
            except TimeoutError as error:
                if cancelled():
                    raise CancelledError from error
                if left_s > CANCEL_POLL_S:
                    continue
                raise DaemonUnavailable(
                    f"the daemon at {self._socket_path} did not answer within {timeout_s} s; "
                    "see its log, or restart it: systemctl restart streamerd"
                ) from error

    def enter(self, load: int, listener: LoadListener) -> None:
        """Register a load, which is told from here on what the daemon says about it."""
        self._listeners[load] = listener

    def leave(self, load: int) -> None:
        """Tell a load nothing more. Idempotent."""
        self._listeners.pop(load, None)

    # --- the wire's thread -----------------------------------------------------------------------

    def receive(self, message: DaemonMessage) -> None:
        """Bring a message to its recipient, or drop it if the recipient has left meanwhile.

        Raises:
            StreamerError: the daemon refuses the whole connection.
        """
        match message:
            case Heartbeat():
                pass
            case (
                Granted() | ShardFailed() | Waiting() | Comparing() | Compared()
                | CredentialsWanted()
            ):  # fmt: skip
                self._tell(message)
            case Failed(request_id=-1, code=code, message=text):
                raise error_from_code(code, text)
            case Opened(load=load, request_id=request_id):
                if listener := self._listeners.get(load):
                    listener.on_opened(message)
                self._answer(request_id, message)
            case Verifying(request_id=request_id):
                if progress := self._progress.get(request_id):
                    progress(message)
            case _:
                self._answer(message.request_id, message)

    def _tell(
        self,
        message: Granted | ShardFailed | Waiting | Comparing | Compared | CredentialsWanted,
    ) -> None:
        listener = self._listeners.get(message.load)
        if listener is None:
            return
        match message:
            case Granted(ranges=ranges):
                listener.on_granted(ranges)
            case ShardFailed(shard=shard, code=code, message=text):
                listener.on_shard_failed(shard, error_from_code(code, text))
            case Waiting():
                listener.on_waiting(message)
            case Comparing():
                listener.on_comparing()
            case Compared():
                listener.on_compared()
            case CredentialsWanted():
                listener.on_credentials_wanted()

    def _answer(self, request_id: int, message: DaemonMessage) -> None:
        waiting = self._answers.get(request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def slabs(self, load: int, shards: tuple[int, ...], descriptors: list[int]) -> None:
        """Give a load its slabs and ownership of their descriptors; close them if it has left."""
        if listener := self._listeners.get(load):
            listener.on_slabs(shards, descriptors)
        else:
            for descriptor in descriptors:
                os.close(descriptor)

    def lose(self, error: StreamerError) -> None:
        """Tell everybody that the daemon is gone, and why."""
        logger.warning("event=daemon_lost socket=%s reason=%r", self._socket_path, str(error))
        for waiting in list(self._answers.values()):
            if not waiting.done():
                waiting.set_exception(error)
        for listener in list(self._listeners.values()):
            listener.on_lost(error)
