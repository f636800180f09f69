"""The daemon's side of `in_worker/spawner.py`: has workers started and learns of their ends.

Runs in the daemon's loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
from collections.abc import Callable, Collection
from typing import Final, assert_never

from streamer_client.contract.errors import StreamerError
from streamerd.workers.frames import frame
from streamerd.workers.in_daemon.channel import Channel
from streamerd.workers.start_messages import (
    WORKER,
    Ended,
    Kill,
    NotSpawned,
    Spawn,
    Spawned,
    report_decoder,
    spawner_command,
)

logger = logging.getLogger(__name__)

KILL_S: Final = 1.0
"""Seconds that a stopping daemon waits for workers that it has killed."""

UNKNOWN_CODE: Final = -1
"""Stands for the exit code of a process whose end was not observed."""


class Process:
    """One worker's process.

    Attributes:
        pid: its pid in the daemon's pid namespace.
        killed: whether `kill` was called.
        ended: its exit code once it has ended; negative for the signal that ended it.
    """

    def __init__(self, pid: int, kill: Callable[[], None]) -> None:
        self.pid = pid
        self.killed = False
        self._kill = kill
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def kill(self) -> None:
        """Kill the process; a thread that is stuck in the kernel delays its end."""
        self.killed = True
        self._kill()

    def has_ended(self, code: int) -> None:
        """Note the end of the process; called when the spawner reports it, or is gone itself."""
        if not self.ended.done():
            self.ended.set_result(code)


class Spawner:
    """Starts workers through a process that has no client's files open."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._numbers = 0
        self._asked: dict[int, asyncio.Future[Process]] = {}
        self._processes: dict[int, Process] = {}

    def start(self) -> None:
        """Start the spawner's process if it does not run. Requests wait until it is ready.

        The first call must come before the daemon has any client's file open. A spawner that died
        is started again even with such files open, since no worker can start without it.

        Raises:
            OSError: the process cannot be made.
        """
        if self._channel is not None and not self._channel.closed:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = subprocess.Popen(
                    spawner_command(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
            except OSError:
                ours.close()
                raise
        self._channel = Channel(ours, self._received, self._lost)

    async def spawn(
        self, theirs: socket.socket, options: tuple[str, ...], module: str = WORKER
    ) -> Process:
        """Start a new worker.

        Args:
            theirs: the worker's end of its socket pair; the caller still owns this descriptor.
            options: the worker's command line.
            module: the module that runs in the process, if it is no worker.

        Raises:
            OSError: it could not be started.
            StreamerError: the process that starts workers ended.
        """
        self.start()
        assert self._channel is not None
        self._numbers += 1
        number = self._numbers
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(frame(Spawn(number, options, module), 1), (theirs.fileno(),), number)
        try:
            return await self._asked[number]
        finally:
            del self._asked[number]
            self._channel.withdraw((theirs.fileno(),))

    def _received(self, body: bytes) -> None:
        match report_decoder.decode(body):
            case Spawned(number, pid):
                process = Process(pid, lambda: self._kill(number))
                self._processes[number] = process
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_result(process)
                else:
                    process.kill()  # the caller has stopped waiting for it
            case NotSpawned(number, error):
                asked = self._asked.get(number)
                if asked is not None and not asked.done():
                    asked.set_exception(OSError(error))
            case Ended(number, code):
                self._processes.pop(number).has_ended(code)
            case report:
                assert_never(report)

    def _kill(self, number: int) -> None:
        if self._channel is not None:
            self._channel.send(frame(Kill(number)))

    def _lost(self) -> None:
        """Note that the spawner's process died, and that the kernel ended its workers with it."""
        if self._child is not None:
            self._child.kill()
            code = self._child.wait()  # the spawner has no file open whose close could hang
            logger.error("event=worker_starter_ended exit=%d", code)
            self._child = None
        for asked in self._asked.values():
            if not asked.done():
                text = "the process that starts fetch workers ended at once; its last lines say why"
                asked.set_exception(StreamerError(text))
        processes, self._processes = self._processes, {}
        for process in processes.values():
            process.has_ended(UNKNOWN_CODE)

    async def stop(self, grace_s: float) -> None:
        """Kill all workers that are left after `grace_s`, then end the process that starts them."""
        processes = self._processes.values()
        await _all([process.ended for process in processes if not process.killed], grace_s)
        for process in processes:
            process.kill()
        # A worker that is stuck in the kernel may end much later. The daemon does not wait for it.
        await _all([process.ended for process in processes], KILL_S)
        for process in processes:
            logger.error("event=worker_stuck_in_kernel pid=%d", process.pid)
        if self._channel is not None:
            self._channel.close()
        if self._child is not None:
            child, self._child = self._child, None
            await asyncio.get_running_loop().run_in_executor(None, child.wait)


async def _all(ends: Collection[asyncio.Future[int]], wait_s: float) -> None:
    if ends:
        await asyncio.wait(ends, timeout=wait_s)
