"""One run of the harness: `python -m tests.vllm.loading.program JOB.json`.

Makes the models that the job names, imports vLLM once, forks the ranks, and ends with the first
rank that fails. Each rank goes through the engines of the job one after the other, and writes its
findings beside the job.
"""

from __future__ import annotations

import gc
import importlib
import json
import multiprocessing
import os
import sys
import traceback
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, cast

from tests.vllm.loading.job import FAILED, HOME, Job, read_job
from tests.vllm.loading.kinds import KINDS, make_hub_cache

SEED, OTHER_SEED, TARGET_SEED = 0, 5, 9


def make_models(job: Job) -> None:
    """Make the checkpoint of every kind, and one with other numbers to load later."""
    for name in sorted({name for engine in job.engines for name in engine.kinds}):
        kind = KINDS[name]
        for which, seed in (("model", SEED), ("other", OTHER_SEED)):
            kind.make(job.model(name, which), seed)
        if kind.draft:
            KINDS["dense"].make(job.model(name, "target"), TARGET_SEED)
        if kind.hub:
            make_hub_cache(job.model(name), Path(job.directory) / HOME)


def run_rank(job: Job, rank: int) -> None:
    from tests.vllm.loading.groups import Group
    from tests.vllm.loading.stages import stages_of

    found: dict[str, dict[str, Any]] = {}
    for number, engine in enumerate(job.engines):
        group = Group(rank, job.ranks, engine.data_parallel, job.directory, number)
        group.leave()
        of_kinds = found.setdefault(engine.name, {})
        for name in engine.kinds:
            try:
                of_kinds[name] = stages_of(job, engine, name, group)
            except Exception:  # noqa: BLE001  the test of this kind tells it
                of_kinds[name] = {FAILED: traceback.format_exc()}
    (Path(job.directory) / f"rank-{rank}.json").write_text(json.dumps(found))


def _rank_process(job: Job, rank: int) -> None:
    # vLLM collects garbage several times during a load, and imported objects are never garbage.
    gc.freeze()
    try:
        run_rank(job, rank)
    except BaseException:  # noqa: BLE001  told here: the others may wait for this rank for ever
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    # A regular exit could not take down groups in order that other ranks have already left.
    os._exit(0)


def _keep_weights() -> None:
    """Keep the weights of linear layers where they are once vLLM has packed them for a kernel.

    On processors with AVX-512 it keeps the packed form alone, behind a function where nothing can
    be compared.
    """
    layers: Any = importlib.import_module("vllm.model_executor.layers.utils")
    pack = layers.dispatch_cpu_unquantized_gemm

    def packed(layer: Any, remove_weight: bool) -> None:
        del remove_weight
        pack(layer, remove_weight=False)

    layers.dispatch_cpu_unquantized_gemm = packed


def run(job: Job) -> int:
    """Run the job; returns the exit code, which is 1 if a rank failed."""
    import torch
    from vllm.plugins import load_general_plugins

    import tests.vllm.loading.stages  # noqa: F401  once, for every rank

    torch.set_num_threads(1)
    # Memory that nobody wrote then has the same content in every load.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.accelerator.empty_cache = lambda: None  # vLLM's runner for the CPU does the same
    cast("Any", load_general_plugins)()
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    # By default, vLLM starts a new interpreter here for each rank and kind.
    registry._run_in_subprocess = lambda look: look()
    _keep_weights()
    make_models(job)
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank_process, args=(job, rank)) for rank in range(job.ranks)]
    for process in ranks:
        process.start()
    running = list(ranks)
    while running:
        wait([process.sentinel for process in running])
        if any(process.exitcode for process in ranks):
            break
        running = [process for process in running if process.exitcode is None]
    for process in running:
        process.kill()
        process.join()
    return 1 if running else 0


if __name__ == "__main__":
    raise SystemExit(run(read_job(Path(sys.argv[1]))))
