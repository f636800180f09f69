"""Loads many models one after the other, with the stock loader and with slices, in ranks of one
start of vLLM.

`python slices_job.py JOB.json ANSWERS_DIRECTORY` imports vLLM once and then forks every rank. A
rank compares the digests of its own parameters, and writes the outcome for each model.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import re
import sys
import traceback
from typing import Any

COPIED = re.compile(r"event=loaded .* bytes=(\d+) copied=(\d+)")
ON_CPU = "STREAMERD_SLICES_ON_CPU"


class Lines(logging.Handler):
    """The lines that the plugin logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run_rank(job: dict[str, Any], rank: int, directory: str) -> None:
    """One rank: joins the others, loads each case, writes the answers."""
    # These models are thousands of times smaller than those that are served, and so is this bound.
    sliced: Any = importlib.import_module("streamer_client.tensors.sliced")
    sliced.AHEAD_BYTES = job["ahead_bytes"]
    lines = Lines()
    logging.getLogger("streamer_vllm.session").addHandler(lines)
    answers: dict[str, Any] = {}
    for number, case in enumerate(job["cases"]):
        try:
            answers[case["name"]] = _case(job, case, rank, lines, first=not number)
        except Exception:  # noqa: BLE001  the test shows it
            answers[case["name"]] = {"error": traceback.format_exc()[-3000:]}
    with open(os.path.join(directory, f"rank-{rank}.json"), "w", encoding="utf-8") as file:
        json.dump(answers, file)
    os._exit(0)  # No process group is taken down, since a rank that failed could not take part.


def _case(
    job: dict[str, Any], case: dict[str, Any], rank: int, lines: Lines, *, first: bool
) -> dict[str, Any]:
    stock, _ = _loaded(job, case, rank, "auto", first=first)
    lines.texts.clear()
    ours, reloaded = _loaded(job, case, rank, "runai_streamer", first=False)
    found = [(int(one), int(other)) for one, other in COPIED.findall("\n".join(lines.texts))]
    differing = [name for name in stock if ours.get(name) != stock[name]]
    again = [name for name in stock if reloaded is not None and reloaded.get(name) != stock[name]]
    return {
        "parameters": len(stock),
        "differing": differing + sorted(ours.keys() - stock.keys()),
        "differing_reloaded": again,
        "bytes": found[0][0],
        "copied": found[0][1],
    }


def _loaded(
    job: dict[str, Any], case: dict[str, Any], rank: int, load_format: str, *, first: bool
) -> tuple[dict[str, str], dict[str, str] | None]:
    """Digests of a model's parameters, and of those after its weights were loaded again.

    If the engine has a draft model, only that one is loaded.
    """
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model_loader

    arguments = EngineArgs(
        model=case["path"],
        load_format=load_format,
        tensor_parallel_size=job["tensor_parallel"],
        pipeline_parallel_size=job["pipeline_parallel"],
        distributed_executor_backend="mp",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=128,
        **case.get("arguments", {}),
    )
    config = arguments.create_engine_config()
    config.parallel_config.rank = rank
    with set_current_vllm_config(config):
        if first:
            _join(job, rank)
        loader: Any = get_model_loader(config.load_config)
        _digested.clear()
        loading = config.model_config
        if config.speculative_config is not None:
            loading = config.speculative_config.draft_model_config
        model = loader.load_model(vllm_config=config, model_config=loading)
        found, reloaded = dict(_digested), None
        if case.get("reload") and load_format != "auto":
            loader.load_weights(model, loading)
            reloaded = digests(model)
    del model
    gc.collect()
    return found, reloaded


_digested: dict[str, str] = {}
"""The digests of the model that was loaded last, taken before vLLM repacked anything."""


def digests(model: Any) -> dict[str, str]:
    """The digest of every parameter and buffer; each must be an ordinary tensor."""
    import torch

    found = {}
    for name, tensor in model.state_dict().items():
        assert type(tensor.data) is torch.Tensor, f"{name} is a {type(tensor.data)}"
        stored = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        content = hashlib.sha256(stored.tobytes()).hexdigest()
        found[name] = f"{tensor.dtype} {list(tensor.shape)} {content}"
    return found


def _join(job: dict[str, Any], rank: int) -> None:
    from vllm.distributed import init_distributed_environment, initialize_model_parallel

    ranks = job["tensor_parallel"] * job["pipeline_parallel"]
    # vLLM's ranks name the memory that they share on the CPU after this variable. Nobody would
    # remove that memory after `os._exit`, so each rank gets a name of its own and shares none.
    os.environ["VLLM_DIST_IDENT"] = f"{job['port']}-{rank}"
    init_distributed_environment(ranks, rank, f"tcp://127.0.0.1:{job['port']}", rank, "gloo")
    initialize_model_parallel(job["tensor_parallel"], job["pipeline_parallel"], backend="gloo")


def _prepare() -> None:
    """Take the digests where vLLM goes on after `load_weights`, and stop there.

    The preparations of vLLM's worker for the CPU are made here too, and models are inspected in
    this process, for which vLLM would start another process each time.
    """
    import torch

    torch.accelerator.empty_cache = lambda: None
    registry: Any = importlib.import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess = lambda look: look()
    base_loader: Any = importlib.import_module("vllm.model_executor.model_loader.base_loader")

    def probing(model: Any, *_: Any) -> None:
        _digested.update(digests(model))

    base_loader.process_weights_after_loading = probing


def main() -> None:
    job_path, directory = sys.argv[1:]
    with open(job_path, encoding="utf-8") as file:
        job = json.load(file)
    from tests.vllm.slice_checkpoints import make
    from tests.vllm.slice_drafts import make_draft

    plugins: Any = importlib.import_module("vllm.plugins")
    plugins.load_general_plugins()
    _prepare()
    for case in job["cases"]:
        case["path"] = make(case["kind"], job["models"])
        if case["draft"]:
            drafted = make_draft(case["draft"], case["path"], job["models"])
            case["arguments"]["speculative_config"] = drafted
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=run_rank, args=(job, rank, directory))
        for rank in range(job["tensor_parallel"] * job["pipeline_parallel"])
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()


if __name__ == "__main__":
    main()
