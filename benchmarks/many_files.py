"""Opening a resident checkpoint of many files: what it costs the daemon's process, and the client.

    python -m benchmarks.many_files --files 141 --repetitions 20

Prints the processor time of the daemon's loop for each open, that of its whole main process
(libzmq's thread, threads that close files), and the time from `open` to the first tensor. Asserts
nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import safetensors.torch
import torch

import streamer_client
from benchmarks.peers import Daemon, machine


def _checkpoint(directory: Path, files: int, size_bytes: int) -> None:
    for number in range(files):
        name = f"model-{number:05d}-of-{files:05d}.safetensors"
        tensor = torch.empty(size_bytes // 2, dtype=torch.bfloat16).fill_(number)
        safetensors.torch.save_file({f"layer.{number}.weight": tensor}, directory / name)


def _cpu_s(pid: int) -> tuple[float, float]:
    """Processor time of a process's first thread, and of all its living threads."""
    times = {
        thread.name: int((thread / "schedstat").read_text().split()[0]) / 1e9
        for thread in Path(f"/proc/{pid}/task").iterdir()
    }
    return times[str(pid)], sum(times.values())


def _first_tensor_s(client: streamer_client.Client, directory: Path) -> float:
    began = time.perf_counter()
    with client.open(directory) as checkpoint:
        next(iter(checkpoint.tensors()))
        return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=141)
    parser.add_argument("--mib", type=float, default=4.0, help="size of each file")
    parser.add_argument("--repetitions", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        _checkpoint(directory, arguments.files, int(arguments.mib * (1 << 20)))
        limit_bytes = int(arguments.files * arguments.mib * (1 << 20)) + (256 << 20)
        daemon = Daemon(folder, limit_bytes)
        try:
            with streamer_client.connect(daemon.socket, mode="required") as client:
                with client.open(directory) as checkpoint:
                    for _ in checkpoint.tensors():
                        pass
                before_s = _cpu_s(daemon.pids[0])
                firsts = [_first_tensor_s(client, directory) for _ in range(arguments.repetitions)]
                after_s = _cpu_s(daemon.pids[0])
        finally:
            daemon.stop()
    print(machine())
    print(f"{arguments.files} files of {arguments.mib:g} MiB, {arguments.repetitions} opens")
    loop, all_threads = (
        1000 * (after - before) / arguments.repetitions
        for after, before in zip(after_s, before_s, strict=True)
    )
    print(f"processor time an open: daemon's loop {loop:.1f} ms, its process {all_threads:.1f} ms")
    median, most = statistics.median(firsts), max(firsts)
    print(f"open to first tensor: median {1000 * median:.1f} ms, most {1000 * most:.1f} ms")


if __name__ == "__main__":
    main()
