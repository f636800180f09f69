"""streamerd against other readers of object stores: nginx on loopback, same run, alternating.

Prints a table and writes it as JSON; asserts no time. Client and server share the processors, so
the server's own processor time is shown beside. Times of one run may be compared with each other
and with nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
from typing import NamedTuple

import msgspec

from benchmarks import checkpoint_files
from benchmarks.objects import load, profile, report
from benchmarks.objects.images import SHARED_MEMORY, Objects
from benchmarks.objects.loaders import WAYS
from benchmarks.objects.report import Row
from benchmarks.objects.server import ObjectServer
from benchmarks.peers import GIB, Daemon, machine, repetitions

REPORT = "object-store.json"
PREFIX = "model"
BFLOAT16_BYTES = 2
PACKAGES = ("boto3", "botocore", "awscrt", "obstore", "runai-model-streamer-s3")
TARGETS = {
    "host": "streamerd",
    "prefetch": "streamerd prefetch",
    "gpu": "streamerd gpu",
    "gpu-into": "streamerd gpu, into",
    "gpu-kept": "streamerd gpu, kept",
}
ON_GPU = tuple(way for way in WAYS if "gpu" in way)
OTHERS = [way for way in WAYS if way not in TARGETS.values()]


class Checkpoint(NamedTuple):
    """Files under one prefix."""

    name: str
    paths: list[str]
    size_bytes: int


class Bench:
    def __init__(
        self, server: ObjectServer, daemon: Daemon, connections: int, processes: int
    ) -> None:
        self._server = server
        self._daemon = daemon
        self._connections = connections
        self._processes = processes
        self.rows: dict[tuple[str, str, str], Row] = {}

    def objects(self, checkpoint: Checkpoint, link: str = report.PLAIN) -> Objects:
        return Objects(
            bucket=f"objects-{checkpoint.name}",
            keys=tuple(f"{PREFIX}/{os.path.basename(path)}" for path in checkpoint.paths),
            files=tuple(checkpoint.paths),
            endpoint=self._server.endpoint(link),
            connections=self._connections,
            socket=self._daemon.socket,
            bundle=self._server.bundle if link == "TLS" else "",
            processes=self._processes,
        )

    def run(self, checkpoint: Checkpoint, link: str, way: str) -> None:
        """Measure one load, before which none of its bytes is cached and memory is free for all."""
        memory = load.backed_memory(checkpoint.size_bytes)
        pids = self._daemon.pids if WAYS[way].daemon else []
        measured, _ = load.run(
            way, self.objects(checkpoint, link), self._server, pids, at_start=memory.close
        )
        self._daemon.evict()
        key = checkpoint.name, link, way
        row = self.rows.setdefault(key, Row(*key, checkpoint.size_bytes))
        row.runs.append(measured)

    def verify(self, checkpoint: Checkpoint, ways: list[str]) -> None:
        """Compare each way's bytes with the files; streamerd must request no byte twice."""
        self._daemon.evict()
        expected = checkpoint_files.hashes(checkpoint.paths)
        for way in ways:
            asked, spent = load.run(way, self.objects(checkpoint), self._server, [], verify=True)
            if WAYS[way].verified and spent.hashes != expected:
                raise RuntimeError(f"{way} delivers other bytes than the objects hold")
            once = asked.again_bytes == 0 and asked.body_bytes == checkpoint.size_bytes
            if WAYS[way].daemon and not once:
                raise RuntimeError(
                    f"{way} had {asked.body_bytes} bytes sent for {checkpoint.size_bytes}, of "
                    f"which it asked for {asked.again_bytes} twice"
                )
            self._daemon.evict()
        verified = [way for way in ways if WAYS[way].verified]
        print(f"{checkpoint.name} objects: bytes of {len(verified)} ways verified", flush=True)


def build(root: str, name: str, size_bytes: int) -> Checkpoint:
    """Make a checkpoint by name: "4" is all bytes in 4 objects, "200x1" 200 of 1 MiB each."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", name)
    if found is None:
        raise SystemExit(f"--objects takes COUNT or COUNTxMIB, not {name!r}")
    count = int(found[1])
    each_bytes = int(found[2]) << 20 if found[2] else size_bytes // count
    each_bytes -= each_bytes % BFLOAT16_BYTES
    paths = checkpoint_files.build(f"{root}/objects-{name}/{PREFIX}", each_bytes * count, count)
    return Checkpoint(name, paths, sum(map(os.path.getsize, paths)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objects", description=__doc__)
    cores = len(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--directory", default=".bench", help="for the report")
    add("--gib", type=float, default=2.0, help="size of a checkpoint")
    add("--objects", nargs="+", default=["1", "4"], metavar="COUNT[xMIB]", help="checkpoints")
    add("--target", nargs="+", choices=TARGETS, default=["host", "prefetch"], help="of ours")
    add("--ways", nargs="*", choices=OTHERS, default=OTHERS, help="what ours is measured beside")
    add("--connections", type=int, default=4, help="of each way")
    add("--workers", type=int, default=1, help="nginx's processes")
    add("--daemon-workers", type=int, help="the daemon's; its own default where not given")
    add("--bare-processes", type=int, default=cores, help="that run the bare loops")
    add("--tls", action="store_true", help="measure over TLS, too")
    add("--delay-ms", type=float, default=0.0, help="and with every request answered so much later")
    add(
        "--phases", action="store_true", help="and tell where the daemon's workers spend their time"
    )
    add("--repetitions", type=int, default=3)
    add("--no-verify", action="store_true")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[str]:
    """The ways to measure, in the table's order."""
    import torch

    asked = {*(TARGETS[target] for target in options.target), *options.ways}
    if asked.intersection(ON_GPU) and not torch.cuda.is_available():
        print("no loads onto a GPU: torch finds no CUDA here", flush=True)
        asked.difference_update(ON_GPU)
    return [way for way in WAYS if way in asked]


def measure(
    bench: Bench, server: ObjectServer, checkpoints: list[Checkpoint], options: argparse.Namespace
) -> None:
    ways = chosen(options)
    if not options.no_verify:
        for checkpoint in checkpoints:
            bench.verify(checkpoint, ways)
    for _ in repetitions(options.repetitions):
        for checkpoint in checkpoints:
            for way in ways:
                for link in server.links if WAYS[way].links else [report.PLAIN]:
                    bench.run(checkpoint, link, way)


def daemon_options(options: argparse.Namespace) -> tuple[str, ...]:
    workers = options.daemon_workers
    return (
        "--connections",
        str(options.connections),
        *(("--workers", str(workers)) if workers else ()),
    )


def tell(rows: list[Row], options: argparse.Namespace) -> None:
    """Print the tables, and write everything."""
    rows.sort(key=lambda row: (options.objects.index(row.checkpoint), row.link))
    print("\n".join([*report.table(rows), *report.delays(rows, options.delay_ms / 1e3)]))
    ratios = dict(report.comparisons(rows))
    for text, ratio in ratios.items():
        print(f"{ratio:8.2f} x  {text}")
    told = {"machine": machine(PACKAGES), "ratios": ratios, "options": vars(options)}
    told["rows"] = [msgspec.to_builtins(row) for row in rows]
    os.makedirs(options.directory, exist_ok=True)
    with open(os.path.join(options.directory, REPORT), "w", encoding="utf-8") as file:
        json.dump(told, file, indent=1)


def run(root: str, runtime: str, options: argparse.Namespace) -> None:
    checkpoints = [build(root, name, int(options.gib * GIB)) for name in options.objects]
    most_bytes = max(checkpoint.size_bytes for checkpoint in checkpoints)
    limit_bytes = most_bytes + most_bytes // 2
    with ObjectServer(
        root, runtime, options.workers, tls=options.tls, delay_s=options.delay_ms / 1e3
    ) as server:
        daemon = Daemon(runtime, limit_bytes, daemon_options(options))
        try:
            bench = Bench(server, daemon, options.connections, options.bare_processes)
            measure(bench, server, checkpoints, options)
        finally:
            daemon.stop()
        tell(list(bench.rows.values()), options)
        if options.tls:
            print(f"kernel TLS: {server.kernel_tls()}", flush=True)
        for checkpoint in checkpoints if options.phases else []:
            profiled = bench.objects(checkpoint)
            lines = profile.lines(profiled, runtime, limit_bytes, daemon_options(options))
            print("\n".join([f"{checkpoint.name} objects, a prefetch:", *lines]), flush=True)


def main() -> None:
    options = arguments()
    # A signal that ends this process must also end nginx and the daemon, and free the memory.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with (
        tempfile.TemporaryDirectory(prefix="streamerd-bench-", dir=SHARED_MEMORY) as root,
        tempfile.TemporaryDirectory(prefix="streamerd-bench-") as runtime,
    ):
        run(root, runtime, options)


if __name__ == "__main__":
    main()
