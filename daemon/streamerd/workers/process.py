"""The fetch process: `python -m streamerd.workers.process --fd N --threads T --connections C`.

Its main thread receives jobs from the daemon's socket pair, the threads of their lanes carry them
out and answer under one lock. End of file on the socket pair, the daemon's death included, ends it.
"""

from __future__ import annotations

import argparse
import ctypes
import logging
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Final

from streamerd.shm.huge_pages import can_collapse
from streamerd.workers.carrier import Carrier
from streamerd.workers.jobs import AnyJob, FrameBuffer, Lane, frame, job_decoder, lane_of

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG: Final = 1
_RECEIVE_BYTES: Final = 256 << 10
ASIDE_THREADS: Final = 4
"""Sources that are listed, and blocks that are read again, at once."""


def serve(channel: socket.socket, threads: int, connections: int, *, mapped: bool = False) -> None:
    """Receive jobs until the daemon closes its end.

    Args:
        channel: our end of the socket pair.
        threads: how many read files.
        connections: how many read from stores at most; each is started when there is work for it.
        mapped: fill slabs through mappings.
    """
    carrier = Carrier(mapped=mapped or can_collapse())
    sending = Lock()

    def carry_out(job: AnyJob) -> None:
        answer = frame(carrier.carry_out(job))
        with sending:
            try:
                channel.sendall(answer)
            except OSError as error:
                logger.debug("daemon gone error=%s", error)

    frames = FrameBuffer()
    counts = {Lane.DISK: threads, Lane.STORE: connections, Lane.ASIDE: ASIDE_THREADS}
    lanes = {lane: ThreadPoolExecutor(counts[lane], lane.value) for lane in Lane}
    while data := channel.recv(_RECEIVE_BYTES):
        for body in frames.feed(data):
            job = job_decoder.decode(body)
            lanes[lane_of(job)].submit(carry_out, job)
    for lane in lanes.values():
        lane.shutdown(wait=False, cancel_futures=True)
    for lane in lanes.values():
        lane.shutdown()
    carrier.close()


def _log(level: str) -> None:
    """Log our packages as told; a library's debug lines may hold what a request is signed with."""
    logging.basicConfig(format="%(levelname)s %(name)s[%(process)d] %(message)s")
    for ours in ("streamerd", "streamer_client", __name__):
        logging.getLogger(ours).setLevel(level)


def main() -> None:
    """Run one worker; started by `streamerd.workers.supervisor`, not by people."""
    parser = argparse.ArgumentParser(prog="streamerd-worker", description=main.__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--mapped", action="store_true", help="fill slabs through mappings")
    parser.add_argument("--log-level", default="INFO")
    arguments = parser.parse_args()
    # A terminal's interrupt goes to the whole group; the daemon alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Should the daemon die while every thread is in a read, the kernel ends this process all the
    # same.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _log(arguments.log_level.upper())
    with socket.socket(fileno=arguments.fd) as channel:
        serve(channel, arguments.threads, arguments.connections, mapped=arguments.mapped)


if __name__ == "__main__":
    main()
