"""One measured load from the object server, in a fresh process.

The process is forked by a server that has imported torch and nothing else; it imports its loader,
says that it is ready, and loads when told.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import resource
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from benchmarks.objects.images import Objects
from benchmarks.objects.requests import Requests
from benchmarks.objects.server import ObjectServer
from benchmarks.one_load import cpu_seconds

SPARE_BYTES = 256 << 20
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch", "xxhash", "benchmarks.objects.loaders"])


class Spent(msgspec.Struct):
    """The process's report of its load; `stop_s` is a time of CLOCK_MONOTONIC."""

    stop_s: float
    cpu_s: float
    tensors: int
    first_tensor_s: float
    hashes: dict[str, int] = {}


class Measured(msgspec.Struct):
    """One load, with the daemon's part if there is one."""

    seconds: float
    cpu_s: float
    server_cpu_s: float
    """Processor time of nginx, which has the same processors as the load."""
    gets: int
    heads: int
    listings: int
    refused: int
    body_bytes: int
    again_bytes: int
    """Bytes that a GET asked for although another GET had asked for them before."""
    first_get_s: float
    """Seconds from the start until the first GET of an object reached the server."""
    first_tensor_s: float


def work(pipe: Connection, way: str, objects: Objects, verify: bool) -> None:
    """Load once when told; the measured process runs this from its start to its end."""
    from benchmarks.objects.loaders import WAYS, make

    loader = make(way, objects)
    pipe.send("ready")
    pipe.recv()
    before_s = _own_cpu_s()
    hashes: dict[str, int] = {}
    kept: list[Any] = []
    count = 0
    first_s = 0.0
    for name, tensor in loader.tensors():
        count += 1
        first_s = first_s or time.monotonic()
        if verify:
            hashes[name] = _hash(tensor)
        elif WAYS[way].keep:
            kept.append(tensor)
    stop_s = time.monotonic()
    pipe.send(Spent(stop_s, _own_cpu_s() - before_s, count, first_s or stop_s, hashes))


def _own_cpu_s() -> float:
    """Processor time of this process, and of the children that it started and that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _hash(tensor: Any) -> int:
    import torch
    import xxhash

    if isinstance(tensor, torch.Tensor):
        on_host = tensor.cpu()
        bytes_of = (ctypes.c_char * on_host.nbytes).from_address(on_host.data_ptr())
        return xxhash.xxh3_64_intdigest(memoryview(bytes_of))
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
    """Load once; `daemon_pids` work for the load, `at_start` is called when all else is ready."""
    ours, theirs = context.Pipe()
    child = context.Process(target=work, args=(theirs, way, objects, verify))
    child.start()
    theirs.close()
    try:
        ours.recv()
        server.requests()
        serving, daemon = _cpu_s(server.pids), _cpu_s(daemon_pids)
        at_start()
        start_s, start_epoch_s = time.monotonic(), time.time()
        ours.send("go")
        spent: Spent = ours.recv()
        measured = _measured(spent, server.requests(), start_s, start_epoch_s)
        measured.cpu_s += _cpu_s(daemon_pids) - daemon
        measured.server_cpu_s = _cpu_s(server.pids) - serving
        return measured, spent
    except EOFError as error:
        raise RuntimeError(f"{way} failed; its lines above say why") from error
    finally:
        ours.close()
        child.join()


def _measured(spent: Spent, asked: Requests, start_s: float, start_epoch_s: float) -> Measured:
    """The figures of a load without the processor time of other processes."""
    return Measured(
        seconds=spent.stop_s - start_s,
        cpu_s=spent.cpu_s,
        server_cpu_s=0.0,
        gets=asked.gets,
        heads=asked.heads,
        listings=asked.listings,
        refused=asked.refused,
        body_bytes=asked.body_bytes,
        again_bytes=asked.again_bytes,
        first_get_s=max(0.0, (asked.first_get_s or start_epoch_s) - start_epoch_s),
        first_tensor_s=spent.first_tensor_s - start_s,
    )


def backed_memory(load_bytes: int) -> mmap.mmap:
    """Memory in use, which is given back right before a load of so many bytes.

    Some virtual machines hand free memory back to their host within seconds. To back it again takes
    seconds a GiB, more than any load, and that time would be measured instead.
    """
    size_bytes = load_bytes + SPARE_BYTES
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for start in range(0, size_bytes, mmap.PAGESIZE):
        memory[start] = 1
    return memory


def _cpu_s(pids: list[int]) -> float:
    return sum(cpu_seconds(pid) for pid in pids)
