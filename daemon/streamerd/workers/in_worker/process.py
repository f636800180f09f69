"""The fetch process, which `spawner.py` forks.

The main thread receives jobs and descriptors from the daemon's socket pair. The threads of the
lanes carry the jobs out, and send answers under one lock. The main thread touches no file, so that
the daemon can always tell it to give a thread up. The end of file on the socket pair, which the
daemon's death causes too, ends the process.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from threading import Lock
from typing import Final

import msgspec

from streamer_client.contract.errors import StreamerError
from streamerd.log_lines import stderr_handler
from streamerd.shm.huge_pages import can_collapse
from streamerd.workers.frames import frame
from streamerd.workers.in_worker.assignment import Assignment, GivenUp, Unyielding
from streamerd.workers.in_worker.borrowed import BorrowedSlab, BorrowedSource
from streamerd.workers.in_worker.carrier import Carrier, Work
from streamerd.workers.in_worker.parent import die_with_the_parent, name_process
from streamerd.workers.in_worker.receiver import DescriptorsLost, Receiver
from streamerd.workers.jobs import (
    AnyJob,
    Drop,
    DropEnvironment,
    GiveUp,
    JobFailed,
    StillGoing,
    Stuck,
    TakeEnvironment,
    TakeSlab,
    TakeSource,
    TellFleet,
    hung,
    job_decoder,
)
from streamerd.workers.lanes import WorkerLane, lane_of, subject_of
from streamerd.workers.threads import Threads

logger = logging.getLogger(__name__)

NICENESS: Final = 10
"""Added to the priority number of a worker's threads. Measured with SCHED_BATCH on sixteen busy
processors: first loads onto a GPU were 6 to 11 % faster (docs/performance.md)."""
ASIDE_THREADS: Final = 4
"""Number of jobs that list, examine or read again at the same time."""
PEER_THREADS: Final = 64
"""Number of reads from other nodes at the same time. The daemon starts no more in all workers
together."""
SLAB_THREADS: Final = 2
"""Number of threads for slabs alone. Releasing a large range takes long, so a second thread serves
the jobs behind it."""


class Server:
    """One worker: its lanes, and the jobs in them.

    Args:
        channel: our end of the socket pair.
        threads: how many threads read files.
        connections: how many threads read from stores at most.
        mapped: whether to fill slabs through mappings.
    """

    def __init__(
        self, channel: socket.socket, threads: int, connections: int, *, mapped: bool
    ) -> None:
        self._channel = channel
        self._carrier = Carrier(mapped=mapped)
        counts = {
            WorkerLane.DISK: threads,
            WorkerLane.STORE: connections,
            WorkerLane.PEERS: PEER_THREADS,
            WorkerLane.ASIDE: ASIDE_THREADS,
            WorkerLane.SLABS: SLAB_THREADS,
        }
        self._lanes = {lane: Threads(lane.value, counts[lane]) for lane in WorkerLane}
        self._works: dict[int, Work] = {}
        """Jobs that are not answered yet. The receiving thread adds jobs, the lanes remove them."""
        self._sending = Lock()

    def serve(self) -> None:
        """Receive until the daemon closes its end.

        Raises:
            DescriptorsLost: some descriptors that were sent did not arrive.
        """
        for body, fds in Receiver(self._channel).frames():
            self._receive(body, fds)
        for lane in self._lanes.values():
            lane.end(cancel=True)
        self._carrier.close()

    def _receive(self, body: bytes, fds: tuple[int, ...]) -> None:
        match job_decoder.decode(body):
            case TakeSlab(handle):
                (fd,) = fds
                self._carrier.slabs.take(handle, BorrowedSlab(fd))
            case TakeSource(handle, stored):
                self._carrier.sources.take(handle, BorrowedSource(stored, fds))
            case TakeEnvironment() as taken:
                self._carrier.environments[taken.digest] = taken.environment
            case DropEnvironment(digest):
                self._carrier.environments.pop(digest, None)
            case TellFleet(terms, me, members):
                self._carrier.know_fleet(terms, me, members)
            case Drop(handle):
                self._carrier.drop(handle)
            case GiveUp() as request:
                self._give_up(request)
            case job:
                self._begin(job, fds)

    def _begin(self, job: AnyJob, fds: tuple[int, ...]) -> None:
        assignment = Assignment(job, fds)
        try:
            work = self._carrier.take_on(assignment)
        except StreamerError as error:
            self._carrier.closer.close(fds)
            self._send(JobFailed(job.job, error.code, str(error)))
            return
        self._works[job.job] = work
        self._lanes[lane_of(job)].submit(partial(self._carry_out, work))

    def _carry_out(self, work: Work) -> bool:
        """Carry a job out, in a lane's thread; returns whether the thread serves further jobs."""
        assignment, job = work.assignment, work.job
        assignment.begin()
        try:
            answer = self._carrier.carry_out(work)
        except GivenUp:
            return False
        if not assignment.finish():
            return False
        self._works.pop(job.job, None)
        self._send(answer)
        return True

    def _give_up(self, request: GiveUp) -> None:
        work = self._works.get(request.job)
        if work is None:
            return
        try:
            left_s = work.assignment.give_up(request.limit_s)
        except Unyielding:
            logger.error("event=job_stuck job=%d subject=%s", request.job, subject_of(work.job))
            self._send(Stuck(request.job))
            return
        if left_s is None:
            return
        if left_s:
            self._send(StillGoing(request.job, left_s))
            return
        del self._works[request.job]
        work.let_slab_go()
        subject = subject_of(work.job)
        logger.error("event=thread_given_up lane=%s subject=%s", lane_of(work.job).value, subject)
        self._lanes[lane_of(work.job)].lose()
        self._send(hung(request.job, subject, request.limit_s))

    def _send(self, message: msgspec.Struct) -> None:
        answer = frame(message)
        with self._sending:
            try:
                self._channel.sendall(answer)
            except OSError as error:
                logger.debug("event=daemon_gone error=%s", error)


def _log(level: str, log_format: str) -> None:
    """Set the level of our packages alone: debug lines of libraries may contain secrets."""
    form = "%(levelname)s %(name)s[%(process)d] %(message)s"
    logging.basicConfig(handlers=[stderr_handler(form, log_format)])
    for ours in ("streamerd", "streamer_client", __name__):
        logging.getLogger(ours).setLevel(level)


def _let_ranks_go_first() -> None:
    """Lower this process's priority below that of the ranks, which copy what was read.

    The few threads of a rank wait for each other, so one that waits for a processor holds up all. A
    worker's hundred threads lose nothing by waiting.
    """
    with contextlib.suppress(OSError):  # a service may not do so, and need not in its group
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        os.nice(NICENESS)


def run(channel: socket.socket, options: Sequence[str]) -> int:
    """Run a worker until the daemon closes its end of the channel.

    The caller then ends the process without waiting for its threads, since some may have been given
    up and be stuck in the kernel.

    Args:
        channel: our end of the socket pair; the caller closes it.
        options: the worker's options, as `Workers` makes them.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="streamerd-worker")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--mapped", action="store_true", help="fill slabs through mappings")
    parser.add_argument("--log-level", default="INFO")
    parser.add_argument("--log-format", default="text")
    arguments = parser.parse_args(options)
    # A terminal's interrupt goes to the whole group; the daemon alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_the_parent()
    name_process("streamerd-fetch")
    _let_ranks_go_first()
    _log(arguments.log_level.upper(), arguments.log_format)
    mapped = arguments.mapped or can_collapse()
    code = 0
    try:
        Server(channel, arguments.threads, arguments.connections, mapped=mapped).serve()
    except DescriptorsLost as error:
        logger.critical("event=worker_ends error=%s", error)
        code = 1
    logging.shutdown()
    return code
