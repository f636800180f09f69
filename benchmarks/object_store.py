"""streamerd against other readers of object stores: nginx on loopback, same run, alternating.

Prints a table and writes it as JSON; asserts nothing. Client and server share the processors, so
the server's own processor time is shown beside. Times of one run may be compared with each other
and with nothing else.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import statistics
import tempfile
from collections.abc import Iterator

import msgspec

from benchmarks import checkpoint_files, object_load
from benchmarks.object_images import SHARED_MEMORY, Objects
from benchmarks.object_load import Measured
from benchmarks.object_loaders import WAYS
from benchmarks.object_server import ObjectServer
from benchmarks.peers import GIB, Daemon, machine, repetitions

REPORT = "object-store.json"
PREFIX = "model"
SPARE_BYTES = 256 << 20
PACKAGES = ("boto3", "botocore", "awscrt", "obstore", "runai-model-streamer-s3")
BARE = ("bare", "bare, huge pages")
COMPARED = (
    *(("streamerd", peer, 0.9) for peer in BARE),
    ("streamerd direct", "bare, existing memory", 0.9),
    *(("streamerd", peer, 3.0) for peer in ("runai", "runai, connections", "runai, kept")),
    ("streamerd direct", "runai", 3.0),
    *(("streamerd", peer, 1.0) for peer in ("boto3", "awscrt", "obstore")),
)


class Row(msgspec.Struct):
    """The repetitions of one way with one checkpoint."""

    objects: int
    way: str
    runs: list[Measured] = []

    def median(self, field: str) -> float:
        return float(statistics.median(getattr(run, field) for run in self.runs))


class Bench:
    def __init__(self, server: ObjectServer, daemon: Daemon, connections: int) -> None:
        self._server = server
        self._daemon = daemon
        self._connections = connections
        self.rows: dict[tuple[int, str], Row] = {}

    def _objects(self, paths: list[str]) -> Objects:
        return Objects(
            bucket=f"objects-{len(paths)}",
            keys=tuple(f"{PREFIX}/{os.path.basename(path)}" for path in paths),
            files=tuple(paths),
            endpoint=self._server.endpoint,
            connections=self._connections,
            socket=self._daemon.socket,
        )

    def run(self, paths: list[str], way: str) -> None:
        """One load of which nothing is cached, and for which as much free memory is at hand."""
        memory = backed_memory(sum(map(os.path.getsize, paths)) + SPARE_BYTES)
        pids = self._daemon.pids if way == "streamerd" else []
        measured, _ = object_load.run(
            way, self._objects(paths), self._server, pids, at_start=memory.close
        )
        self._daemon.evict()
        row = self.rows.setdefault((len(paths), way), Row(len(paths), way))
        row.runs.append(measured)

    def verify(self, paths: list[str], ways: list[str]) -> None:
        """Let each way's bytes be compared with the files'."""
        self._daemon.evict()
        expected = checkpoint_files.hashes(paths)
        for way in ways:
            _, spent = object_load.run(way, self._objects(paths), self._server, [], verify=True)
            if spent.hashes != expected:
                raise RuntimeError(f"{way} delivers other bytes than the objects hold")
        print(f"{len(paths)} objects: bytes of {len(ways)} ways verified", flush=True)


def backed_memory(size_bytes: int) -> mmap.mmap:
    """Memory in use, to be given back right before a load.

    Some virtual machines hand free memory back to their host within seconds. To have it backed
    again costs seconds a GiB, more than any load, and would be measured instead.
    """
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    for start in range(0, size_bytes, mmap.PAGESIZE):
        memory[start] = 1
    return memory


def table(rows: list[Row], size_bytes: int) -> Iterator[str]:
    """The medians as lines of text; every value of the seconds at the end."""
    yield (
        f"{'objects':>7}  {'way':22}{'seconds':>8}{'GB/s':>7}{'CPU s':>7}{'nginx s':>9}"
        f"{'GETs':>6}{'others':>7}{'bytes x':>9}   all seconds"
    )
    before = None
    for row in sorted(rows, key=lambda row: row.objects):
        if before not in (None, row.objects):
            yield ""
        before = row.objects
        seconds = row.median("seconds")
        yield (
            f"{row.objects:7d}  {row.way:22}{seconds:8.2f}{size_bytes / seconds / 1e9:7.2f}"
            f"{row.median('cpu_s'):7.2f}{row.median('server_cpu_s'):9.2f}"
            f"{row.median('gets'):6.0f}{row.median('other_requests'):7.0f}"
            f"{row.median('body_bytes') / size_bytes:9.3f}   "
            + " ".join(f"{run.seconds:.2f}" for run in row.runs)
        )


def comparisons(rows: list[Row]) -> Iterator[tuple[str, float]]:
    """How many times a peer's speed, for what was to be shown."""
    seconds = {(row.objects, row.way): row.median("seconds") for row in rows}
    for objects in sorted({row.objects for row in rows}):
        for ours, peer, wanted in COMPARED:
            mine, other = seconds.get((objects, ours)), seconds.get((objects, peer))
            if mine and other:
                text = f"{objects} objects, {ours} against {peer} (wanted {wanted:g} x)"
                yield text, other / mine


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=".bench", help="for the report")
    parser.add_argument("--gib", type=float, default=2.0, help="size of the checkpoint")
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--connections", type=int, default=4, help="of each way")
    parser.add_argument("--nginx-workers", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--no-verify", action="store_true")
    return parser.parse_args()


def measure(bench: Bench, checkpoints: list[list[str]], options: argparse.Namespace) -> None:
    if not options.no_verify:
        for paths in checkpoints:
            bench.verify(paths, options.ways)
    for _ in repetitions(options.repetitions):
        for paths in checkpoints:
            for way in options.ways:
                bench.run(paths, way)


def main() -> None:
    options = arguments()
    size_bytes = int(options.gib * GIB)
    with tempfile.TemporaryDirectory(prefix="streamerd-bench-", dir=SHARED_MEMORY) as root:
        checkpoints = [
            checkpoint_files.build(f"{root}/objects-{count}/{PREFIX}", size_bytes, count)
            for count in options.objects
        ]
        total_bytes = sum(os.path.getsize(path) for path in checkpoints[0])
        with tempfile.TemporaryDirectory(prefix="streamerd-bench-") as runtime:
            daemon = Daemon(runtime, total_bytes + total_bytes // 2)
            try:
                with ObjectServer(root, runtime, options.nginx_workers) as server:
                    bench = Bench(server, daemon, options.connections)
                    measure(bench, checkpoints, options)
            finally:
                daemon.stop()
    rows = list(bench.rows.values())
    print("\n".join(table(rows, total_bytes)))
    ratios = dict(comparisons(rows))
    for text, ratio in ratios.items():
        print(f"{ratio:8.2f} x  {text}")
    report = {"machine": machine(PACKAGES), "bytes": total_bytes, "ratios": ratios}
    report["options"] = vars(options)
    report["rows"] = [msgspec.to_builtins(row) for row in rows]
    os.makedirs(options.directory, exist_ok=True)
    with open(os.path.join(options.directory, REPORT), "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
