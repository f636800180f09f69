"""The process that starts fetch workers: `python -m streamerd.workers.in_worker.spawner --fd N`.

The daemon does not start workers itself, because it has files open that clients passed. A child
process begins with copies of all descriptors, and closes them before it becomes a worker. Closing a
file whose server is dead may never return (FUSE asks the server at each close). The daemon would
wait for such a child in `vfork`, and all clients for the daemon. This process has no client's file
open. It starts workers, kills them when told, reports how they ended, and ends with the daemon.
"""

from __future__ import annotations

import argparse
import ctypes
import signal
import socket
import subprocess
import sys
import threading
from typing import Final

from streamerd.workers.frames import frame
from streamerd.workers.in_worker.receiver import Receiver
from streamerd.workers.start_messages import (
    ISOLATED,
    Ended,
    Kill,
    NotSpawned,
    Report,
    Spawn,
    Spawned,
    request_decoder,
)

_PR_SET_PDEATHSIG: Final = 1


class WorkerStarter:
    """Starts workers, and knows those that have not ended."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def serve(self) -> None:
        """Do as told until the daemon closes its end."""
        for body, fds in Receiver(self._channel).frames():
            match request_decoder.decode(body):
                case Spawn() as request:
                    with socket.socket(fileno=fds[0]) as theirs:
                        self._spawn(request, theirs)
                case Kill(number):
                    child = self._children.get(number)
                    if child is not None:
                        child.kill()

    def _spawn(self, request: Spawn, theirs: socket.socket) -> None:
        command = [sys.executable, *ISOLATED, "-m", request.module]
        command += ["--fd", str(theirs.fileno()), *request.options]
        try:
            child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except OSError as error:
            self._report(NotSpawned(request.number, str(error)))
            return
        self._children[request.number] = child
        self._report(Spawned(request.number, child.pid))
        # Only this thread waits for the child, so the system does not give its pid away before.
        wait = threading.Thread(target=self._wait, args=(request.number, child), daemon=True)
        wait.start()

    def _wait(self, number: int, child: subprocess.Popen[bytes]) -> None:
        code = child.wait()
        self._children.pop(number, None)
        self._report(Ended(number, code))

    def _report(self, report: Report) -> None:
        with self._sending:
            try:
                self._channel.sendall(frame(report))
            except OSError:
                return  # the daemon is gone, and the end of file tells the main thread


def die_with_the_parent() -> None:
    """Have the kernel end this process with the one that started it, whatever it is doing then."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Serve one daemon."""
    parser = argparse.ArgumentParser(prog="streamerd-spawner", description=main.__doc__)
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_the_parent()
    with socket.socket(fileno=arguments.fd) as channel:
        WorkerStarter(channel).serve()


if __name__ == "__main__":
    main()
