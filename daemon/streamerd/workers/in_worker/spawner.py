"""The process that starts fetch workers: `python -m streamerd.workers.in_worker.spawner --fd N`.

The daemon does not start workers itself, because it has files open that clients passed. A child
process begins with copies of all descriptors, and closes them before it becomes a worker. Closing a
file whose server is dead may never return (FUSE asks the server at each close). The daemon would
wait for such a child in `vfork`, and all clients would wait for the daemon. The spawner has no
client's file open. It starts workers, kills them when told, reports how they ended, and ends with
the daemon.

A worker is a fork of the spawner, which has imported all code that workers need, with that of the
stores and botocore's signer. So a worker is ready at once, all workers share the memory of that
code, and no load waits while its workers import. Forking is safe because the spawner has one
thread.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import traceback
from typing import Final, NoReturn

from streamer_client.storage.registry import import_all
from streamerd.workers.frames import frame
from streamerd.workers.in_worker.parent import die_with_the_parent
from streamerd.workers.in_worker.receiver import Receiver
from streamerd.workers.start_messages import (
    Ended,
    Kill,
    NotSpawned,
    Report,
    Spawn,
    Spawned,
    request_decoder,
)

FIRST_FD: Final = 3
"""The first descriptor after standard input, output and error."""
FAILED: Final = 1
"""Exit code of a worker that ended by an error of its own."""


class WorkerStarter:
    """Starts workers, and remembers those that have not ended.

    Args:
        channel: our end of the socket pair to the daemon.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._receiver = Receiver(channel)
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._numbers: dict[int, int] = {}
        """The number of each child that has not ended, by the child's pidfd, which signals its
        end."""
        self._children: dict[int, tuple[int, int]] = {}
        """The pidfd and pid of each child that has not ended, by the child's number."""

    def serve(self) -> None:
        """Carry out the daemon's requests until it closes its end."""
        while True:
            for fd, _ in self._poll.poll():
                if fd in self._numbers:
                    self._ended(fd)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        """Carry out the requests that have arrived; returns whether the daemon is still there."""
        messages = self._receiver.receive()
        for body, fds in messages or ():
            match request_decoder.decode(body):
                case Spawn() as request:
                    with socket.socket(fileno=fds[0]) as theirs:
                        self._spawn(request, theirs)
                case Kill(number):
                    if number in self._children:
                        signal.pidfd_send_signal(self._children[number][0], signal.SIGKILL)
        return messages is not None

    def _spawn(self, request: Spawn, theirs: socket.socket) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._report(NotSpawned(request.number, str(error)))
            return
        if pid == 0:
            self._become_worker(request, theirs)
        # Only this process can wait for the child, so the pid cannot be another process's yet.
        pidfd = os.pidfd_open(pid)
        self._numbers[pidfd] = request.number
        self._children[request.number] = pidfd, pid
        self._poll.register(pidfd, select.POLLIN)
        self._report(Spawned(request.number, pid))

    def _become_worker(self, request: Spawn, theirs: socket.socket) -> NoReturn:
        code = FAILED
        try:
            _close_all_but(theirs.fileno())
            code = importlib.import_module(request.module).run(theirs, request.options)
        except BaseException:  # noqa: BLE001  the child must not run this process's code
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _ended(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        os.close(pidfd)
        number = self._numbers.pop(pidfd)
        _, pid = self._children.pop(number)
        _, status = os.waitpid(pid, 0)
        self._report(Ended(number, os.waitstatus_to_exitcode(status)))

    def _report(self, report: Report) -> None:
        try:
            self._channel.sendall(frame(report))
        except OSError:
            return  # the daemon is gone, and the end of file tells `serve`


def _close_all_but(fd: int) -> None:
    """Close the inherited sockets of other workers, whose end of file the daemon waits for."""
    for inherited in map(int, os.listdir("/proc/self/fd")):
        if inherited >= FIRST_FD and inherited != fd:
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed already
                os.close(inherited)


def main() -> None:
    """Serve one daemon."""
    parser = argparse.ArgumentParser(prog="streamerd-spawner", description=main.__doc__)
    parser.add_argument("--fd", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_the_parent()
    import_all()
    # The garbage collector would write into each object that it looks at, and a page that is
    # written to is no longer shared with the other workers.
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=arguments.fd) as channel:
        WorkerStarter(channel).serve()


if __name__ == "__main__":
    main()
