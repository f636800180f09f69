"""streamerd against safetensors and Run:ai Model Streamer: same files, same run, alternating.

Prints a table and writes it as JSON; asserts nothing. Times of one run may be compared with each
other and with nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import msgspec

from benchmarks import checkpoint_files, one_load
from benchmarks.loaders import LOADERS
from benchmarks.one_load import Measured, Task

GIB = 1 << 30
REPORT = "peers.json"
QUIET_S = 0.3
OURS = "streamerd"
PEERS = tuple(name for name in LOADERS if name != OURS and "cloned" not in name)
BOTH = ("runai", "runai buffered")
CLONED = tuple(f"{name}, cloned" for name in BOTH)


class Case(NamedTuple):
    """A state and a way to load, in which loaders are measured side by side."""

    state: str
    """`warm` or `cold` for the page cache, or `resident` for the daemon."""
    processes: int
    how: str
    loaders: tuple[str, ...]


CASES = (
    Case("warm", 1, "iterate", (OURS, *(name for name in LOADERS if name != OURS))),
    Case("warm", 1, "keep", (OURS, *BOTH)),
    Case("warm", 1, "copy", (OURS, *PEERS)),
    Case("warm", 2, "iterate", (OURS, "safetensors get_tensor", *BOTH)),
    Case("warm", 4, "iterate", (OURS, "safetensors get_tensor", *BOTH)),
    Case("warm", 4, "keep", (OURS, "runai buffered")),
    Case("cold", 1, "iterate", (OURS, *PEERS)),
    Case("cold", 1, "keep", (OURS, *BOTH)),
    Case("cold", 1, "copy", (OURS, *BOTH)),
    Case("cold", 4, "iterate", (OURS, *BOTH)),
    Case("resident", 1, "iterate", (OURS,)),
    Case("resident", 1, "copy", (OURS,)),
    Case("resident", 2, "iterate", (OURS,)),
    Case("resident", 4, "iterate", (OURS,)),
    Case("resident", 4, "copy", (OURS,)),
)


class Row(msgspec.Struct):
    """The repetitions of one loader in one case."""

    state: str
    processes: int
    how: str
    loader: str
    cached: list[float] = []
    """The share of the files in the page cache before each repetition."""
    runs: list[Measured] = []

    def median(self, field: str) -> float:
        values: list[float] = [getattr(run, field) for run in self.runs]
        return statistics.median(values)


def repetitions(count: int) -> Iterator[None]:
    """Yield for each repetition, and print how long it took and how loaded the machine is."""
    for number in range(1, count + 1):
        start_s = time.monotonic()
        yield
        took_s = time.monotonic() - start_s
        print(f"repetition {number}: {took_s:.0f} s, load {os.getloadavg()[0]:.1f}", flush=True)


class Daemon:
    """A daemon for this benchmark alone.

    Args:
        directory: a directory for its socket.
        memory_limit_bytes: its memory limit.
        options: further options of its command line.
        program: a program to run instead of the daemon's own module; it takes the same command
            line.
    """

    def __init__(
        self,
        directory: str,
        memory_limit_bytes: int,
        options: tuple[str, ...] = (),
        program: str = "streamerd",
    ) -> None:
        self.socket = os.path.join(directory, "bench.sock")
        reader, writer = os.pipe()
        command = [sys.executable, "-m", program, "--socket", self.socket, *options]
        command += ["--memory-limit", str(memory_limit_bytes), "--log-level", "warning"]
        self._process = subprocess.Popen(
            [*command, "--ready-fd", str(writer)], pass_fds=[writer], stdin=subprocess.DEVNULL
        )
        os.close(writer)
        with open(reader, "rb") as ready:
            if not ready.readline():
                raise RuntimeError("streamerd did not start; its lines above say why")

    @property
    def pids(self) -> list[int]:
        """The daemon, the process that starts workers, and the present workers."""
        return [self._process.pid, *_descendants(self._process.pid)]

    def evict(self) -> None:
        """Evict everything, and wait until the memory is free."""
        import streamer_client

        with streamer_client.connect(self.socket) as client:
            deadline = time.monotonic() + 30
            while _used_bytes(client.admin.status()):
                client.admin.evict()
                if time.monotonic() > deadline:
                    raise RuntimeError("the daemon does not let go of the checkpoint")

    def settle(self) -> None:
        """Wait until nothing is brought in any more, so that the next load is measured alone."""
        import streamer_client

        with streamer_client.connect(self.socket) as client:
            before, since = None, time.monotonic()
            while time.monotonic() < since + QUIET_S:
                status = client.admin.status()
                now = status["totals"], status["memory"]
                if now != before:
                    before, since = now, time.monotonic()
                time.sleep(QUIET_S / 10)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # SIGTERM would leave slabs in memory
        self._process.wait(20)


def _descendants(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        children = [int(child) for child in file.read().split()]
    return [one for child in children for one in (child, *_descendants(child))]


def _used_bytes(status: dict[str, object]) -> int:
    memory = status["memory"]
    assert isinstance(memory, dict)
    return int(memory["used_bytes"])


class Bench:
    def __init__(self, paths: list[str], daemon: Daemon) -> None:
        self.paths = paths
        self.daemon = daemon
        self.rows: dict[tuple[Case, str], Row] = {}

    def task(self, loader: str, how: str) -> Task:
        return Task(loader, how, tuple(self.paths), self.daemon.socket)

    def run(self, case: Case, loader: str) -> None:
        """Measure one load."""
        ours = loader == OURS
        if case.state == "resident":
            self._load_first()
        elif ours:
            self.daemon.evict()
        prepare = checkpoint_files.drop if case.state == "cold" else checkpoint_files.warm
        cached = prepare(self.paths) if case.state != "resident" else 0.0
        pids = self.daemon.pids if ours else []
        measured, _ = one_load.run(self.task(loader, case.how), case.processes, pids)
        if ours:
            self.daemon.settle()
        row = Row(case.state, case.processes, case.how, loader)
        row = self.rows.setdefault((case, loader), row)
        row.cached.append(cached)
        row.runs.append(measured)

    def _load_first(self) -> None:
        one_load.run(self.task(OURS, "iterate"), 1, [])

    def verify(self, loaders: tuple[str, ...]) -> None:
        """Compare each loader's bytes with the files'."""
        expected = checkpoint_files.hashes(self.paths)
        for loader in loaders:
            _, (spent,) = one_load.run(self.task(loader, "verify"), 1, [])
            if spent.hashes != expected:
                raise RuntimeError(f"{loader} delivers other bytes than the files hold")
        print(f"{len(expected)} tensors, bytes of {len(loaders)} loaders verified", flush=True)


def table(rows: list[Row], size_bytes: int) -> Iterator[str]:
    """The medians as lines of text."""
    yield (
        f"{'state':9}{'procs':>5} {'how':8}{'loader':24}{'seconds':>9}{'GB/s':>8}{'CPU s':>7}"
        f"{'read x':>8}{'disk x':>8}{'device x':>9}{'private MiB':>12}"
    )
    before = None
    for row in rows:
        group = (row.state, row.processes, row.how)
        if before not in (None, group):
            yield ""
        before = group
        seconds = row.median("seconds")
        yield (
            f"{row.state:9}{row.processes:5d} {row.how:8}{row.loader:24}{seconds:9.3f}"
            f"{row.processes * size_bytes / seconds / 1e9:8.2f}{row.median('cpu_s'):7.2f}"
            f"{row.median('source_bytes') / size_bytes:8.2f}"
            f"{row.median('disk_bytes') / size_bytes:8.2f}"
            f"{row.median('device_bytes') / size_bytes:9.2f}"
            f"{row.median('private_bytes') / (1 << 20):12.0f}"
        )


def comparisons(rows: list[Row]) -> Iterator[tuple[str, float]]:
    """How many times as long as streamerd a peer took, for what was hoped for."""
    seconds = {
        (row.state, row.processes, row.how, row.loader): row.median("seconds") for row in rows
    }
    asked = (
        ("resident, views, against runai warm", "resident", "warm", "iterate", "runai", 50.0),
        ("resident, views, against its buffered", "resident", "warm", "iterate", BOTH[1], 50.0),
        ("warm, first load, against runai", "warm", "warm", "iterate", "runai", 3.0),
        ("warm, first load, against its buffered", "warm", "warm", "iterate", BOTH[1], 1.2),
        ("warm, first load, against runai as vLLM does", "warm", "warm", "iterate", CLONED[0], 3.0),
        ("warm, first load, buffered as vLLM does", "warm", "warm", "iterate", CLONED[1], 1.2),
        ("warm, all tensors kept, against runai", "warm", "warm", "keep", "runai", 3.0),
        ("warm, all tensors kept, against its buffered", "warm", "warm", "keep", BOTH[1], 1.2),
        ("warm, copied, against runai", "warm", "warm", "copy", "runai", 3.0),
        ("warm, copied, against its buffered", "warm", "warm", "copy", BOTH[1], 1.2),
        ("cold, all tensors kept, against runai", "cold", "cold", "keep", "runai", 1.0),
        ("cold, all tensors kept, against its buffered", "cold", "cold", "keep", BOTH[1], 1.0),
        ("cold, first load, against runai", "cold", "cold", "iterate", "runai", 1.0),
        ("cold, first load, against its buffered", "cold", "cold", "iterate", BOTH[1], 1.0),
    )
    for text, ours, theirs, how, peer, wanted in asked:
        mine, other = seconds.get((ours, 1, how, OURS)), seconds.get((theirs, 1, how, peer))
        if mine and other:
            yield f"{text} (wanted {wanted:g} x)", other / mine


def machine(packages: tuple[str, ...] = ()) -> dict[str, object]:
    """The machine of the figures; `packages` are named beside the usual ones."""
    versions = {}
    for package in ("torch", "safetensors", "runai-model-streamer", *packages):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions,
        "load_average": os.getloadavg(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=".bench", help="for files and report")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the checkpoint")
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--states", nargs="+", default=["warm", "cold", "resident"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--hows", nargs="+", default=["iterate", "keep", "copy"])
    parser.add_argument("--loaders", nargs="+", choices=LOADERS, default=list(LOADERS))
    parser.add_argument("--no-verify", action="store_true")
    return parser.parse_args()


def measure(bench: Bench, options: argparse.Namespace) -> list[Row]:
    cases = [
        case
        for case in CASES
        if case.state in options.states
        and case.processes in options.processes
        and case.how in options.hows
    ]
    for _ in repetitions(options.repetitions):
        for case in cases:
            for loader in case.loaders:
                if loader in options.loaders:
                    bench.run(case, loader)
    return list(bench.rows.values())


def main() -> None:
    options = arguments()
    directory = os.path.abspath(options.directory)
    size_bytes = int(options.gib * GIB)
    name = f"checkpoint-{size_bytes}-{options.files}"
    paths = checkpoint_files.build(os.path.join(directory, name), size_bytes, options.files)
    total_bytes = sum(os.path.getsize(path) for path in paths)
    with tempfile.TemporaryDirectory(prefix="streamerd-bench-") as runtime:
        daemon = Daemon(runtime, total_bytes + total_bytes // 2)
        try:
            bench = Bench(paths, daemon)
            if not options.no_verify:
                bench.verify(tuple(options.loaders))
            rows = measure(bench, options)
        finally:
            daemon.stop()
    lines = list(table(rows, total_bytes))
    print("\n".join(lines))
    cold = [share for row in rows if row.state == "cold" for share in row.cached]
    if cold:
        print(f"cold: at most {max(cold):.2%} of the files was left in the page cache")
    ratios = dict(comparisons(rows))
    for text, ratio in ratios.items():
        print(f"{ratio:8.2f} x  {text}")
    report = {"machine": machine(), "bytes": total_bytes, "ratios": ratios}
    report["rows"] = [msgspec.to_builtins(row) for row in rows]
    with open(os.path.join(directory, REPORT), "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
