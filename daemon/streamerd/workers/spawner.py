"""The process that starts fetch workers: `python -m streamerd.workers.spawner --fd N`.

Why the daemon does not start them itself: it holds files that clients opened. A child begins with
copies of all of them and closes these before it becomes a worker, and closing a file whose server
is dead (FUSE is asked once more at each close) never returns; the daemon would wait for its child
in `vfork`, and everybody for the daemon. This process holds none, starts workers, ends them when
told, and tells how they ended. It ends with the daemon.
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

import msgspec

from streamerd.workers.jobs import frame
from streamerd.workers.receiver import Receiver

_PR_SET_PDEATHSIG: Final = 1

_ISOLATED: Final = ("-I",) if sys.flags.isolated else ()
"""A daemon that ignores its environment's Python settings has workers that do."""


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Start a worker; its end of the socket pair comes along."""

    number: int
    """Of the start; told in the answer, never used again."""
    options: tuple[str, ...]


class Kill(msgspec.Struct, frozen=True, tag=True):
    """End a worker at once. Nothing where it has ended."""

    number: int


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """The worker runs."""

    number: int
    pid: int


class NotSpawned(msgspec.Struct, frozen=True, tag=True):
    """No process could be made."""

    number: int
    error: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The worker's process is gone."""

    number: int
    code: int


Request = Spawn | Kill
Report = Spawned | NotSpawned | Ended

request_decoder = msgspec.msgpack.Decoder(Request)
report_decoder = msgspec.msgpack.Decoder(Report)


def spawner_command(fd: int) -> list[str]:
    """How this process is started."""
    return [sys.executable, *_ISOLATED, "-m", "streamerd.workers.spawner", "--fd", str(fd)]


class Nursery:
    """The workers that were started here and have not ended."""

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
        command = [sys.executable, *_ISOLATED, "-m", "streamerd.workers.process"]
        command += ["--fd", str(theirs.fileno()), *request.options]
        try:
            child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        except OSError as error:
            self._report(NotSpawned(request.number, str(error)))
            return
        self._children[request.number] = child
        self._report(Spawned(request.number, child.pid))
        # The thread is the only one that waits for the child: until then its number is its own.
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
        Nursery(channel).serve()


if __name__ == "__main__":
    main()
