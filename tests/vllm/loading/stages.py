"""The stages that the harness takes each kind through, with the stock loader and with streamerd's.

Owns the order: load; wake from sleep at level 2, where parameters are lost; load another path; take
weights that a caller sends; write shards and load those, also in an engine that they were not made
for. `rank.py` owns the single steps. Runs in each rank.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.config import VllmConfig

from streamer_vllm.sharding.command import Job as ShardJob
from streamer_vllm.sharding.command import complete_checkpoint
from tests.vllm.loading.damage import DAMAGES, damaged_copy
from tests.vllm.loading.groups import Group
from tests.vllm.loading.job import Engine, Job
from tests.vllm.loading.kinds import HUB_ID, KINDS
from tests.vllm.loading.rank import (
    Digests,
    Loaded,
    digests_of,
    discard,
    engine_config,
    load_config,
    reload,
)

Found = dict[str, Digests | str]

WHOLE = ("auto", "runai_streamer")
SHARDED = ("sharded_state", "runai_streamer_sharded")
PART_BYTES = 100_000


def stages_of(job: Job, engine: Engine, name: str, group: Group) -> Found:
    """The content of this rank's model, or an error's text, by `load format/stage`."""
    kind = KINDS[name]
    model = HUB_ID if kind.hub else str(job.model(name))
    found: Found = {}

    def config_of(model: str, load_format: str, **more: Any) -> VllmConfig:
        return _config(
            job, engine, name, group, {"model": model, "load_format": load_format} | more
        )

    for load_format in WHOLE:
        loaded = load_config(config_of(model, load_format, **kind.located), lora=kind.lora)
        _note_whole(found, load_format, loaded, job.model(name, "other"))
        del loaded
        gc.collect()
    if name in engine.wrong:
        shards = str(job.shards(engine.wrong[name], name))
        found["wrong"] = _or_error(
            lambda: load_config(config_of(shards, SHARDED[1]), lora=kind.lora).digests
        )
    if kind.online:
        found["refused"] = _or_error(lambda: _write_shards(job, engine, name, group, config_of))
        return found
    shards = _write_shards(job, engine, name, group, config_of)
    for load_format, other in ((SHARDED[1], model), (WHOLE[1], shards)) if kind.draft else ():
        found[f"{load_format}/beside-another"] = load_config(config_of(other, load_format)).digests
    for load_format in SHARDED if not engine.data_parallel else ():
        loaded = load_config(config_of(shards, load_format), lora=kind.lora)
        _note_shards(found, load_format, loaded)
        del loaded
        gc.collect()
    if name in engine.damaged:
        _note_damaged(
            found,
            Path(shards),
            group.rank,
            lambda copied: load_config(config_of(copied, SHARDED[1])).digests,
        )
    return found


def _config(
    job: Job, engine: Engine, name: str, group: Group, arguments: dict[str, Any]
) -> VllmConfig:
    kind = KINDS[name]
    size = "data_parallel_size" if group.data_parallel else "tensor_parallel_size"
    every = {**kind.arguments, **engine.arguments, size: group.ranks}
    if kind.draft:
        draft = {"model": arguments["model"], "method": "draft_model", "num_speculative_tokens": 2}
        every |= {"speculative_config": draft}
        arguments = arguments | {"model": str(job.model(name, "target"))}
    config = engine_config(every | arguments)
    group.place(config)
    return config


def _note_whole(found: Found, load_format: str, loaded: Loaded, other: Path) -> None:
    found[f"{load_format}/loaded"] = loaded.digests
    found[f"{load_format}/ready"] = digests_of(loaded.model)
    for stage, how in (
        ("reloaded", {}),
        ("from-caller", {"weights_iterator": _weights(other)}),
        ("other-path", {"weights_path": str(other)}),
        ("other-path-again", {}),
    ):
        discard(loaded.model)
        told = _or_error(partial(reload, loaded, **how))
        found[f"{load_format}/{stage}"] = told
        if isinstance(told, str):
            break  # the model is only half loaded


def _note_shards(found: Found, load_format: str, loaded: Loaded) -> None:
    found[f"{load_format}/loaded"] = loaded.digests
    found[f"{load_format}/ready"] = digests_of(loaded.model)
    found[f"{load_format}/reloaded"] = _or_error(lambda: reload(loaded))


def _note_damaged(found: Found, shards: Path, rank: int, load: Callable[[str], Digests]) -> None:
    """Note the error of each damaged copy's load; a load that succeeds leaves its digests."""
    for damage in DAMAGES:
        copied = str(damaged_copy(shards, damage, rank))
        found[f"damaged/{damage}"] = _or_error(partial(load, copied))


def _weights(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights as a trainer sends them: every tensor with its name."""
    for file in sorted(directory.glob("*.safetensors")):
        yield from load_file(file).items()


def _or_error(step: Callable[[], Digests | str]) -> Digests | str:
    try:
        return step()
    except Exception as error:  # noqa: BLE001  the test compares the words
        return f"{type(error).__name__}: {error}"


def _write_shards(
    job: Job, engine: Engine, name: str, group: Group, config_of: Callable[..., VllmConfig]
) -> str:
    """Let every rank write its shards, as `streamerctl shard` does; the first rank adds the other
    files.

    Data-parallel ranks are alike, so one of them writes.
    """
    out = job.shards(engine.name, name)
    directory = out if group.rank == 0 or not group.data_parallel else out.with_suffix(".unused")
    directory.mkdir(parents=True, exist_ok=True)
    extra = {"directory": str(directory), "max_file_bytes": PART_BYTES}
    config = config_of(str(job.model(name)), "streamerd_save", model_loader_extra_config=extra)
    load_config(config)
    gc.collect()
    torch.distributed.barrier()
    if group.rank == 0:
        written = ShardJob(
            model=str(job.model(name)),
            out=str(out),
            tensor_parallel_size=1 if group.data_parallel else group.ranks,
            expert_parallel=bool(engine.arguments.get("enable_expert_parallel")),
        )
        complete_checkpoint(written, config, str(out))
    torch.distributed.barrier()
    return str(out)
