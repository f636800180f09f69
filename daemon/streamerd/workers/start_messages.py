"""Messages between the daemon and the spawner, which starts its workers; the spawner's command.

Pure. `in_daemon/spawning.py` sends requests and receives reports, `in_worker/spawner.py` serves.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

ISOLATED: Final = ("-I",) if sys.flags.isolated else ()
"""Options of Python for new processes. A daemon that ignores the environment's Python settings
starts processes that ignore them, too."""


WORKER: Final = "streamerd.workers.in_worker.process"
"""The module of a fetch worker."""


class Spawn(msgspec.Struct, frozen=True, tag=True):
    """Start a worker, or another process; its end of the socket pair comes along."""

    number: int
    """Number of this start, which the reports repeat. It is never used again."""
    options: tuple[str, ...]
    module: str = WORKER


class Kill(msgspec.Struct, frozen=True, tag=True):
    """Kill a worker; no effect if it has ended."""

    number: int


class Spawned(msgspec.Struct, frozen=True, tag=True):
    """The worker runs."""

    number: int
    pid: int


class NotSpawned(msgspec.Struct, frozen=True, tag=True):
    """The process could not be started."""

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
    """The command line of the process that starts workers."""
    return [sys.executable, *ISOLATED, "-m", "streamerd.workers.in_worker.spawner", "--fd", str(fd)]
