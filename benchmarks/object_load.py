"""One measured load from the object server, in a fresh process.

The process is forked by a server that has imported torch and nothing else; it imports its loader,
says that it is ready, and loads when told.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from benchmarks.object_images import Objects
from benchmarks.object_server import ObjectServer
from benchmarks.one_load import cpu_seconds

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch", "xxhash", "benchmarks.object_loaders"])


class Spent(msgspec.Struct):
    """What the process says of its load; a time of CLOCK_MONOTONIC."""

    stop_s: float
    cpu_s: float
    tensors: int
    hashes: dict[str, int] = {}


class Measured(msgspec.Struct):
    """One load, with the daemon's part where there is one."""

    seconds: float
    cpu_s: float
    server_cpu_s: float
    """Of nginx, which shares the processors."""
    gets: int
    other_requests: int
    body_bytes: int


def work(pipe: Connection, way: str, objects: Objects, verify: bool) -> None:
    """A process's life."""
    from benchmarks.object_loaders import WAYS, make

    loader = make(way, objects)
    pipe.send("ready")
    pipe.recv()
    before = resource.getrusage(resource.RUSAGE_SELF)
    hashes: dict[str, int] = {}
    kept: list[Any] = []
    count = 0
    for name, tensor in loader.tensors():
        count += 1
        if verify:
            hashes[name] = _hash(tensor)
        elif WAYS[way].keep:
            kept.append(tensor)
    stop_s = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    pipe.send(Spent(stop_s, cpu_s, count, hashes))


def _hash(tensor: Any) -> int:
    import torch
    import xxhash

    if isinstance(tensor, torch.Tensor):
        tensor = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return xxhash.xxh3_64_intdigest(memoryview(tensor))


def run(
    way: str,
    objects: Objects,
    server: ObjectServer,
    daemon_pids: list[int],
    *,
    at_start: Callable[[], None] = lambda: None,
    verify: bool = False,
) -> tuple[Measured, Spent]:
    """Load once; `daemon_pids` work for it, `at_start` is called when all else is ready."""
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(theirs, way, objects, verify))
    child.start()
    theirs.close()
    try:
        ours.recv()
        server.requests()
        serving, daemon = _cpu_s(server.pids), _cpu_s(daemon_pids)
        at_start()
        start_s = time.monotonic()
        ours.send("go")
        spent: Spent = ours.recv()
        requests = server.requests()
        measured = Measured(
            seconds=spent.stop_s - start_s,
            cpu_s=spent.cpu_s + _cpu_s(daemon_pids) - daemon,
            server_cpu_s=_cpu_s(server.pids) - serving,
            gets=requests.gets,
            other_requests=requests.others,
            body_bytes=requests.body_bytes,
        )
        return measured, spent
    finally:
        ours.close()
        child.join()


def _cpu_s(pids: list[int]) -> float:
    return sum(cpu_seconds(pid) for pid in pids)
