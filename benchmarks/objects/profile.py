"""Lets its own daemon prefetch once, profiled, and tells where its workers spent their time."""

from __future__ import annotations

import os
import tempfile

import msgspec

from benchmarks.objects import phases, profiled
from benchmarks.objects.images import Objects
from benchmarks.objects.load import backed_memory
from benchmarks.objects.loaders import make
from benchmarks.peers import Daemon


def lines(objects: Objects, runtime: str, limit_bytes: int, options: tuple[str, ...]) -> list[str]:
    """The lines that sum up the workers' reports.

    Args:
        objects: the objects to prefetch.
        runtime: a short-lived directory for sockets and files.
        limit_bytes: the daemon's memory limit.
        options: further options of the daemon's command line.
    """
    with (
        tempfile.TemporaryDirectory(dir=runtime) as directory,
        tempfile.TemporaryDirectory(dir=runtime) as told_by_workers,
    ):
        os.environ[profiled.DIRECTORY] = told_by_workers
        daemon = Daemon(directory, limit_bytes, options, profiled.__name__)
        try:
            own = msgspec.structs.replace(objects, socket=daemon.socket)
            prefetch = make("streamerd prefetch", own)
            backed_memory(sum(map(os.path.getsize, objects.files))).close()
            for _ in prefetch.tensors():
                pass
        finally:
            daemon.stop()
        told = [_read(one.path) for one in os.scandir(told_by_workers)]
    total = phases.summed(told)
    if not total.blocks:
        return ["  no worker told of a block"]
    return list(phases.lines(total, objects.connections))


def _read(path: str) -> phases.Told:
    with open(path, "rb") as file:
        return phases.of_worker(msgspec.json.decode(line, type=phases.Told) for line in file)
