"""streamerd against its peers on a real GPU: bytes of files, verified where they end up.

One command makes the checkpoints, runs every loader in a process of its own, in turn, and prints
medians and the ratios that were wanted. It asserts nothing. Needs root to empty the page cache and
room in /dev/shm for every checkpoint twice.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import torch

from benchmarks import checkpoint_files, gpu_files, gpu_slices
from benchmarks.gpu_files import GIB, Wanted
from benchmarks.gpu_loaders import LOADERS, OURS
from benchmarks.gpu_report import ALONE, INTO, TENSORS, Row, comparisons, table
from benchmarks.gpu_worker import Took, Worker
from benchmarks.peers import Daemon, machine

SHM = "/dev/shm/streamerd-bench-gpu"
PEERS = tuple(name for name in LOADERS if name not in OURS)
DIRECT = "streamerd direct"
FIRST_LOADS = ("streamerd into, no page cache", DIRECT)
PARTS = ("dense", "small", "huge", "warm", "cold", "large", "two", "slices")


class Checkpoint(NamedTuple):
    name: str
    paths: list[str]
    wanted: list[list[Wanted]]

    @property
    def size_bytes(self) -> int:
        return sum(os.path.getsize(path) for path in self.paths)


class Bench:
    """Workers, daemon and rows of one run."""

    def __init__(self, options: argparse.Namespace, runtime: str) -> None:
        self.options = options
        self.daemon = Daemon(runtime, options.memory_gib * GIB)
        self.rows: list[Row] = []
        self.workers: dict[str, Worker] = {}
        self.ceiling = 0.0
        self.card_bytes = 0
        self.verified: set[tuple[str, str]] = set()

    def worker(self, loader: str) -> Worker:
        if loader not in self.workers:
            self.workers[loader] = Worker(loader, self.daemon.socket, 0)
        return self.workers[loader]

    def checkpoint(self, name: str, files: list[list[Wanted]], root: str) -> Checkpoint:
        start = time.monotonic()
        paths = gpu_files.build(os.path.join(root, name), files, "cuda:0")
        print(f"made {name} in {root}: {time.monotonic() - start:.1f} s", flush=True)
        return Checkpoint(name, paths, files)

    def compare(
        self,
        checkpoint: Checkpoint,
        state: str,
        loaders: Sequence[str],
        prepare: Callable[[str], object],
        repetitions: int | None = None,
    ) -> None:
        """Let these loaders load in turn; `prepare` is called with each one's name before."""
        rows = {name: Row(checkpoint.name, state, name, checkpoint.size_bytes) for name in loaders}
        for _ in range(repetitions or self.options.repetitions):
            for name in loaders:
                if not rows[name].error and name not in self.options.without:
                    self._one(checkpoint, rows[name], prepare)
        for name in loaders:
            if name in self.workers:
                self.workers[name].forget()
        shown = [row for row in rows.values() if row.seconds or row.error]
        self.rows += shown
        print("\n".join(table(shown, self.ceiling)), flush=True)

    def _one(self, checkpoint: Checkpoint, row: Row, prepare: Callable[[str], object]) -> None:
        worker = self.worker(row.loader)
        prepare(row.loader)
        first = (row.loader, checkpoint.name) not in self.verified
        took = worker.load(checkpoint.paths, checkpoint.wanted, verify=first)
        if row.loader in OURS:
            self.daemon.settle()
        if took.error or took.wrong:
            row.error = took.error or f"{len(took.wrong)} tensors are wrong: {took.wrong[:3]}"
            return
        if self.card_bytes < len(LOADERS) * checkpoint.size_bytes:
            worker.forget()
        self.verified.add((row.loader, checkpoint.name))
        row.verified = True
        row.seconds.append(took.seconds)
        if took.first_s:
            row.first_s.append(took.first_s - took.start_s)

    def resident(self, checkpoint: Checkpoint) -> None:
        """Let the daemon bring a checkpoint in."""
        import streamer_client

        source = os.path.dirname(checkpoint.paths[0])
        with streamer_client.connect(self.daemon.socket) as client, client.open(source) as opened:
            for _ in opened.tensors():
                pass

    def close(self) -> None:
        for worker in self.workers.values():
            worker.stop()
        self.daemon.stop()


def tmpfs_parts(bench: Bench, parts: Sequence[str]) -> None:
    """Measure files in memory: resident in the daemon for streamerd, on tmpfs for its peers."""
    ours = tuple(name for name in OURS if name not in FIRST_LOADS)
    if "dense" in parts:
        one = bench.checkpoint("dense-12", gpu_files.dense(bench.options.gib), SHM)
        bench.resident(one)
        bench.compare(one, "memory", (*ours, DIRECT, *PEERS), lambda _: None)
        bench.daemon.evict()
        shutil.rmtree(os.path.dirname(one.paths[0]))
    if "small" in parts:
        for size in (64 << 10, 4 << 10):
            one = bench.checkpoint(f"small-{size >> 10}k", gpu_files.many(size), SHM)
            bench.resident(one)
            bench.compare(one, "memory", (*ours, *PEERS), lambda _: None)
    if "huge" in parts:
        one = bench.checkpoint("huge-4", gpu_files.huge(), SHM)
        bench.resident(one)
        bench.compare(one, "memory", (*ours, *PEERS), lambda _: None)
        bench.daemon.evict()
        shutil.rmtree(os.path.dirname(one.paths[0]))
    if "large" in parts:
        one = bench.checkpoint("dense-48", gpu_files.dense(48), SHM)
        bench.resident(one)
        for loader in (INTO, TENSORS):  # one by one, as the GPU lacks room for all
            bench.compare(one, "memory", (loader,), lambda _: None)
        bench.daemon.evict()
        shutil.rmtree(os.path.dirname(one.paths[0]))


def disk_parts(bench: Bench, parts: Sequence[str]) -> None:
    """Measure files on a disk, in the page cache or not."""
    one = bench.checkpoint(
        f"dense-{bench.options.disk_gib}",
        gpu_files.dense(bench.options.disk_gib),
        os.path.abspath(bench.options.directory),
    )

    def warm(loader: str) -> None:
        if loader in OURS:
            bench.daemon.evict()
        checkpoint_files.warm(one.paths)

    def cold(loader: str) -> None:
        if loader in OURS:
            bench.daemon.evict()
        checkpoint_files.drop(one.paths)

    if "warm" in parts:
        loaders = (INTO, TENSORS, *FIRST_LOADS, *PEERS)
        bench.compare(one, "warm", loaders, warm)
    if "cold" in parts:
        rates = []
        for _ in range(bench.options.repetitions):
            cold(INTO)
            rates.append(read_alone(one.paths))
        row = Row(one.name, "cold", ALONE, one.size_bytes, rates)
        bench.rows.append(row)
        print("\n".join(table([row], bench.ceiling)), flush=True)
        bench.compare(one, "cold", (INTO, TENSORS, DIRECT), cold)
        bench.compare(one, "cold", PEERS, cold, bench.options.cold_peers)


def read_alone(paths: Sequence[str], threads: int = 16, block_bytes: int = 8 << 20) -> float:
    """Seconds to read the files past the page cache, without keeping the bytes."""
    jobs = [
        (path, start) for path in paths for start in range(0, os.path.getsize(path), block_bytes)
    ]
    import mmap

    lock = threading.Lock()

    def work() -> None:
        buffer = mmap.mmap(-1, block_bytes)
        opened = {path: os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths}
        while True:
            with lock:
                if not jobs:
                    break
                path, start = jobs.pop(0)
            os.preadv(opened[path], [buffer], start)
        for fd in opened.values():
            os.close(fd)

    start_s = time.monotonic()
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.monotonic() - start_s


def two_ranks(bench: Bench) -> None:
    """Let each rank load its own shards onto its own GPU, alone and both at once."""
    gib = bench.options.rank_gib
    files = [gpu_files.dense(gib, f"rank{rank}.") for rank in (0, 1)]
    ranks = [bench.checkpoint(f"rank-{rank}", files[rank], SHM) for rank in (0, 1)]
    for one in ranks:
        bench.resident(one)
    for loader in (INTO, TENSORS, "streamerd into, no compiler", "instanttensor"):
        alone = Worker(loader, bench.daemon.socket, 0)
        pair = [Worker(loader, bench.daemon.socket, rank, ranks=2) for rank in (0, 1)]
        try:
            seconds = [
                _together([alone], ranks[:1], verify=not place)
                for place in range(bench.options.repetitions)
            ]
            both = [
                _together(pair, ranks, verify=not place)
                for place in range(bench.options.repetitions)
            ]
        finally:
            for worker in (alone, *pair):
                worker.stop()
        size = ranks[0].size_bytes
        rows = [
            Row(f"rank-{gib}", "one rank", loader, size, seconds, verified=True),
            Row(f"rank-{gib}", "two ranks", loader, 2 * size, both, verified=True),
        ]
        bench.rows += rows
        print("\n".join(table(rows, bench.ceiling)), flush=True)


def _together(workers: Sequence[Worker], ranks: Sequence[Checkpoint], *, verify: bool) -> float:
    """Seconds from the first start to the last end."""
    pairs = list(zip(workers, ranks, strict=True))
    for worker, one in pairs:
        worker.ask(one.paths, one.wanted, verify=verify)
    for worker, _ in pairs:
        worker.go()
    took: list[Took] = [worker.answer() for worker, _ in pairs]
    for each in took:
        if each.error or each.wrong:
            raise RuntimeError(each.error or f"wrong: {each.wrong[:3]}")
    return max(each.stop_s for each in took) - min(each.start_s for each in took)


def slices(bench: Bench) -> None:
    """Measure a rank's share of a Llama 70B, then all of it in a single rank."""
    files = gpu_slices.llama_70b(bench.options.layers)
    one = bench.checkpoint("llama-70b", files, SHM)
    bench.resident(one)
    torch.cuda.empty_cache()
    alone = (gpu_slices.ALONE_AUTO, gpu_slices.ALONE_OFF, gpu_slices.FORCED)
    for place, ways in (
        ((gpu_slices.RANK, gpu_slices.RANKS), (gpu_slices.SLICES, gpu_slices.WHOLE)),
        ((0, 1), alone),
    ):
        rank = gpu_slices.RankOfMany(bench.daemon.socket, one.paths, files, *place)
        try:
            found = gpu_slices.compare(rank, ways, bench.options.repetitions, print)
        finally:
            rank.close()
        rows = [
            Row(one.name, "memory", way, rank.size_bytes, [run.seconds for run in runs])
            for way, runs in found.items()
        ]
        bench.rows += rows
        print("\n".join(table(rows, bench.ceiling)), flush=True)
    bench.daemon.evict()
    shutil.rmtree(os.path.dirname(one.paths[0]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--directory", default=".bench", help="on a disk: files and report")
    parser.add_argument("--gib", type=int, default=12, help="of the dense checkpoint in memory")
    parser.add_argument("--disk-gib", type=int, default=12)
    parser.add_argument("--rank-gib", type=int, default=6, help="of each of two ranks")
    parser.add_argument("--layers", type=int, default=24, help="of the Llama 70B, 1.6 GiB each")
    parser.add_argument("--memory-gib", type=int, default=64, help="the daemon's limit")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--cold-peers", type=int, default=1, help="repetitions of peers, cold")
    parser.add_argument("--without", nargs="+", choices=LOADERS, default=[])
    return parser.parse_args()


def main() -> None:
    options = arguments()
    os.makedirs(options.directory, exist_ok=True)
    cards = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    if "two" in options.parts and len(cards) < 2:
        options.parts.remove("two")
    with tempfile.TemporaryDirectory(prefix="streamerd-bench-") as runtime:
        bench = Bench(options, runtime)
        try:
            bench.card_bytes = torch.cuda.get_device_properties(0).total_memory
            bench.ceiling = bench.worker(INTO).ceiling()
            print(f"{', '.join(cards)}: pinned copies {bench.ceiling / 1e9:.1f} GB/s", flush=True)
            tmpfs_parts(bench, options.parts)
            if "slices" in options.parts:
                slices(bench)
            if {"warm", "cold"} & set(options.parts):
                disk_parts(bench, options.parts)
            if "two" in options.parts:
                two_ranks(bench)
        finally:
            bench.close()
            shutil.rmtree(SHM, ignore_errors=True)
            report(bench, cards)


def report(bench: Bench, cards: list[str]) -> None:
    options = bench.options
    found = list(
        comparisons(
            bench.rows,
            bench.ceiling,
            disk_gib=options.disk_gib,
            rank_gib=options.rank_gib,
        )
    )
    for text, figure, wanted in found:
        print(f"{figure:7.2f} x (wanted {wanted:.2f}) {text}")
    gpu = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    told = {
        "machine": {**machine(), "cards": cards, "nvidia_smi": gpu.stdout.split("\n")},
        "ceiling_bytes_per_s": bench.ceiling,
        "ratios": [{"what": text, "is": is_, "wanted": wanted} for text, is_, wanted in found],
        "rows": [msgspec.to_builtins(row) for row in bench.rows],
    }
    with open(os.path.join(bench.options.directory, "gpu.json"), "w", encoding="utf-8") as file:
        json.dump(told, file, indent=1)


if __name__ == "__main__":
    main()
