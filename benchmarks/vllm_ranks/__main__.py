"""Two or more ranks load one model by vLLM's own loaders: stock, whole tensors, slices, sharded.

A daemon holds the model. Prints medians of the slower rank's seconds and the ratios that were
wanted, and writes them as JSON; asserts nothing. Times of one run may be compared with each other
and with nothing else. The part `fp8` quantises while it loads, which needs a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any

from benchmarks.peers import GIB, Daemon
from benchmarks.vllm_ranks.model import LLAMA_8B, TINY, made

REPORT = "vllm-ranks.json"
WANTED = {("slices", "whole"): 0.6, ("slices", "sharded"): 1.2}
"""Ratios of seconds that were wanted of a model without quantisation."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vllm_ranks", description=__doc__)
    add = parser.add_argument
    add("--ranks", type=int, default=2)
    add("--rounds", type=int, default=5, help="loads of each way that are counted")
    add("--parts", nargs="+", choices=["plain", "fp8"], default=["plain", "fp8"])
    add("--directory", default=".bench", help="for the model (16 GB), its shards and the report")
    add("--memory-gib", type=int, default=48, help="the daemon's limit")
    add("--tiny", action="store_true", help="a model of 5 MB, to try the benchmark itself")
    add("--cpu", action="store_true", help="load onto the CPU")
    add("--rank", type=int, default=-1, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_rank(options: argparse.Namespace, work: str) -> None:
    """Load as one rank, and write what the loads took."""
    from benchmarks.vllm_ranks.rank import Rank

    rank = Rank(work, options.rank, options.ranks, on_cpu=options.cpu)
    model, found = os.path.join(work, "model"), {}
    if "plain" in options.parts:
        rank.write_shards(model)
    for part in options.parts:
        took = rank.compare(model, part, options.rounds)
        found[part] = {name: [asdict(one) for one in loads] for name, loads in took.items()}
    with open(os.path.join(work, f"rank-{options.rank}.json"), "w", encoding="utf-8") as file:
        json.dump(found, file)
    sys.stdout.flush()
    os._exit(0)  # vLLM's process group is not taken down, as in a worker that is killed


def environment(options: argparse.Namespace, socket: str) -> dict[str, str]:
    """The variables of a rank."""
    chosen = dict(
        os.environ,
        STREAMERD_SOCKET=socket,
        STREAMERD_SHARD_WRITER="1",
        HF_HUB_OFFLINE="1",
        VLLM_NO_USAGE_STATS="1",
        VLLM_LOGGING_LEVEL="WARNING",
    )
    if options.cpu:
        chosen |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
        chosen |= {"STREAMERD_SLICES_ON_CPU": "4096", "VLLM_DIST_IDENT": str(os.getpid())}
    return chosen


def run(options: argparse.Namespace, work: str) -> list[dict[str, Any]]:
    """Run all ranks beside a daemon, and return what each found."""
    for name in ("group", "shards"):
        path = os.path.join(work, name)
        shutil.rmtree(path, ignore_errors=True)
        if os.path.exists(path):
            os.remove(path)
    with tempfile.TemporaryDirectory(prefix="streamerd-bench-") as runtime:
        daemon = Daemon(runtime, options.memory_gib * GIB)
        command = [sys.executable, "-m", "benchmarks.vllm_ranks", *sys.argv[1:], "--rank"]
        chosen = environment(options, daemon.socket)
        ranks = [
            subprocess.Popen([*command, str(rank)], env=chosen) for rank in range(options.ranks)
        ]
        try:
            codes = [rank.wait() for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
            daemon.stop()
    if any(codes):
        raise SystemExit("a rank failed; its lines above say why")
    found = []
    for number in range(options.ranks):
        with open(os.path.join(work, f"rank-{number}.json"), encoding="utf-8") as file:
            found.append(json.load(file))
    return found


def told(found: list[dict[str, Any]], part: str) -> list[str]:
    """The lines about one part: each way, then the ratios."""
    lines, medians = [], {}
    for name in found[0][part]:
        loads = [rank[part][name] for rank in found]
        together = [max(one["together_s"] for one in turn) for turn in zip(*loads, strict=True)]
        medians[name] = statistics.median(together)
        last = [one[-1] for one in loads]
        copied = ", ".join(f"{one['copied'] / one['bytes']:.3f}" for one in last if one["bytes"])
        odd = sum(len(one["differing"]) for rank in loads for one in rank)
        all_s = " ".join(f"{one:.3f}" for one in together)
        lines.append(
            f"{part:6}{name:9}{medians[name]:7.3f} s  ({all_s})  copied: {copied or '-'}, "
            f"{odd} tensors differ"
        )
    for (one, other), wanted in WANTED.items():
        if one in medians and other in medians:
            told_wanted = f" (wanted {wanted})" if part == "plain" else ""
            lines.append(
                f"{medians[one] / medians[other]:8.2f} x {part}, {one} over {other}{told_wanted}"
            )
    return lines


def main() -> None:
    options = arguments()
    work = os.path.abspath(options.directory)
    if options.rank >= 0:
        run_rank(options, work)
        return
    size_bytes = made(os.path.join(work, "model"), TINY if options.tiny else LLAMA_8B)
    print(f"{size_bytes / 1e9:.2f} GB, {options.ranks} ranks", flush=True)
    found = run(options, work)
    for part in options.parts:
        print("\n".join(told(found, part)), flush=True)
    with open(os.path.join(work, REPORT), "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
