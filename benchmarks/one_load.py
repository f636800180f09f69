"""One measured load in fresh processes: what each process did, and what it cost.

The processes are forked by a server that has imported only torch. Each imports its loader,
allocates, reports that it is ready, and loads when told. The parent looks at their memory
meanwhile.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import time
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for

import msgspec

from benchmarks.checkpoint_files import stored_tensors

SAMPLE_S = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")
_SECTOR_BYTES = 512

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["torch", "xxhash", "benchmarks.loaders"])


class Task(msgspec.Struct, frozen=True):
    """The work of one process.

    `how` is `iterate` (each tensor is dropped before the next comes), `keep` (all are readable at
    the end), `copy` (into existing memory) or `verify`.
    """

    loader: str
    how: str
    paths: tuple[str, ...]
    socket: str


class Spent(msgspec.Struct):
    """One process's report of its load; times are of CLOCK_MONOTONIC."""

    stop_s: float
    cpu_s: float
    rchar_bytes: int
    disk_bytes: int
    tensors: int
    hashes: dict[str, int] = {}


class Measured(msgspec.Struct):
    """One load by all processes at once, with the daemon's part if there is one."""

    seconds: float
    cpu_s: float
    source_bytes: int
    """Bytes that system calls read from the files, in the workers or the processes."""
    disk_bytes: int
    """The part of `source_bytes` that came from the block layer; page faults count too."""
    device_bytes: int
    """Bytes that the whole device read meanwhile, for anybody."""
    private_bytes: int
    """The largest growth of anonymous memory (RssAnon) of one process during the load."""


def io_counters(pid: int | str = "self") -> tuple[int, int]:
    """`rchar` and `read_bytes` of a process."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        fields = dict(line.split(": ") for line in file)
    return int(fields["rchar"]), int(fields["read_bytes"])


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def anonymous_bytes(pid: int) -> int:
    """Resident private memory, neither files nor shared memory; 0 once the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("RssAnon"):
                    return int(line.split()[1]) << 10
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def device_bytes(path: str) -> int:
    """Bytes that a file's device has read since the start of the system."""
    device = os.stat(path).st_dev
    name = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"
    if not os.path.exists(name):
        return 0
    with open(name, encoding="ascii") as file:
        return int(file.read().split()[2]) * _SECTOR_BYTES


def work(pipe: Connection, task: Task) -> None:
    """Carry out a task when told; the measured process runs this from its start to its end."""
    import torch

    from benchmarks.loaders import make

    loader = make(task.loader, list(task.paths), task.socket)
    targets = {}
    if task.how == "copy":
        for path in task.paths:
            for tensor in stored_tensors(path):
                count = (tensor.stop - tensor.start) // 2
                targets[tensor.name] = torch.zeros(count, dtype=torch.bfloat16).fill_(1)
    gc.collect()
    pipe.send("ready")
    pipe.recv()
    before = io_counters()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seen, hashes = 0, {}
    if task.how == "copy":
        loader.copy(targets)
        seen = len(targets)
    elif task.how == "keep":
        kept = dict(loader.iterate())
        seen = len(kept)
    elif task.how == "iterate":
        for _name, _tensor in loader.iterate():
            seen += 1
    else:
        hashes = {name: _hash(tensor) for name, tensor in loader.iterate()}
    stop_s = time.monotonic()
    used = resource.getrusage(resource.RUSAGE_SELF)
    after = io_counters()
    cpu_s = used.ru_utime + used.ru_stime - usage.ru_utime - usage.ru_stime
    pipe.send(Spent(stop_s, cpu_s, after[0] - before[0], after[1] - before[1], seen, hashes))


def _hash(tensor: object) -> int:
    import torch
    import xxhash

    assert isinstance(tensor, torch.Tensor)
    memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return xxhash.xxh3_64_intdigest(memoryview(memory))


def run(task: Task, processes: int, service_pids: list[int]) -> tuple[Measured, list[Spent]]:
    """Load in so many processes at once; `service_pids` work for all of them."""
    pipes, children = [], []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        child = context.Process(target=work, args=(theirs, task))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    try:
        for pipe in pipes:
            pipe.recv()
        return _measure(task, pipes, [child.pid or 0 for child in children], service_pids)
    finally:
        for pipe in pipes:
            pipe.close()
        for child in children:
            child.join()


def _measure(
    task: Task, pipes: list[Connection], pids: list[int], service_pids: list[int]
) -> tuple[Measured, list[Spent]]:
    idle = {pid: anonymous_bytes(pid) for pid in pids}
    peak = dict.fromkeys(pids, 0)
    service = _service(service_pids)
    device = device_bytes(task.paths[0])
    start_s = time.monotonic()
    for pipe in pipes:
        pipe.send("go")
    spent: list[Spent] = []
    waiting = list(pipes)
    while waiting:
        for ready in wait_for(waiting, SAMPLE_S):
            assert isinstance(ready, Connection)
            spent.append(ready.recv())
            waiting.remove(ready)
        for pid in pids:
            peak[pid] = max(peak[pid], anonymous_bytes(pid) - idle[pid])
    used = [after - before for after, before in zip(_service(service_pids), service, strict=True)]
    return (
        Measured(
            seconds=max(one.stop_s for one in spent) - start_s,
            cpu_s=sum(one.cpu_s for one in spent) + used[0],
            source_bytes=int(used[1]) if service_pids else sum(one.rchar_bytes for one in spent),
            disk_bytes=int(used[2]) + sum(one.disk_bytes for one in spent),
            device_bytes=device_bytes(task.paths[0]) - device,
            private_bytes=max(peak.values()),
        ),
        spent,
    )


def _service(pids: list[int]) -> tuple[float, float, float]:
    counters = [io_counters(pid) for pid in pids]
    return (
        sum(cpu_seconds(pid) for pid in pids),
        float(sum(rchar for rchar, _ in counters)),
        float(sum(disk for _, disk in counters)),
    )
