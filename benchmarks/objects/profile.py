"""Has a daemon of its own prefetch once, profiled, and says where its workers spent their time."""

from __future__ import annotations

import glob
import os
import tempfile

import msgspec

from benchmarks.objects import phases, profiled
from benchmarks.objects.images import Objects
from benchmarks.objects.loaders import make
from benchmarks.peers import Daemon


def lines(objects: Objects, runtime: str, limit_bytes: int, options: tuple[str, ...]) -> list[str]:
    """What the workers told.

    Args:
        objects: what is prefetched.
        runtime: a directory for sockets and files, short-lived.
        limit_bytes: the daemon's memory.
        options: further ones of the daemon's command line.
    """
    with tempfile.TemporaryDirectory(dir=runtime) as directory:
        os.environ[profiled.DIRECTORY] = directory
        daemon = Daemon(directory, limit_bytes, options, profiled.__name__)
        try:
            own = msgspec.structs.replace(objects, socket=daemon.socket)
            for _ in make("streamerd prefetch", own).tensors():
                pass
        finally:
            daemon.stop()
        told = [_read(path) for path in glob.glob(os.path.join(directory, "*.json"))]
    total = phases.summed(told)
    if not total.blocks:
        return ["  no worker told of a block"]
    return list(phases.lines(total, objects.connections))


def _read(path: str) -> phases.Told:
    with open(path, "rb") as file:
        return msgspec.json.decode(file.read(), type=phases.Told)
