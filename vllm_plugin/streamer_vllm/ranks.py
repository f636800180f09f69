"""This process's place among vLLM's ranks: its place, its numbers, and its label for people.

Valid once vLLM has made its process groups. The rank's own thread calls it, and the log handler.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from streamer_vllm.sharding.pattern import Place

NO_ENGINE: Final = "-"


def current_place() -> Place:
    """This rank's place among the tensor- and pipeline-parallel ranks."""
    from vllm.distributed import get_pp_group, get_tp_group  # noqa: PLC0415  heavy; needed late

    tensor, pipeline = get_tp_group(), get_pp_group()
    return Place(
        tp_rank=tensor.rank_in_group,
        tp_size=tensor.world_size,
        pp_rank=pipeline.rank_in_group,
        pp_size=pipeline.world_size,
    )


def global_rank() -> int:
    """The rank among all processes of the engine; 0 when nothing is distributed.

    torch is not imported for this, since a process without torch is no rank.
    """
    torch: Any = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 0
    return int(distributed.get_rank())


def data_parallel_rank() -> int:
    """The number of this engine among the data-parallel ones; 0 if there is only one."""
    config = engine_config()
    return 0 if config is None else int(getattr(config.parallel_config, "data_parallel_rank", 0))


def label() -> str:
    """The label of this rank in `streamerctl status`: model, numbers, and engine.

    Two engines of one model on a node, such as one for prefill and one for decode, differ only in
    the last word. That word is the end of vLLM's own id of the engine. The beginning of the id is
    the time, which engines that start together share.
    """
    config = engine_config()
    rank = f"rank {global_rank()}"
    if config is None:
        return rank
    model = os.path.basename(str(config.model_config.model).rstrip("/"))
    parallel = config.parallel_config
    if getattr(parallel, "data_parallel_size", 1) > 1:
        rank = f"dp {data_parallel_rank()} {rank}"
    engine = str(getattr(config, "instance_id", "") or NO_ENGINE)
    return f"{model[:60]} {rank} engine {engine[-12:]}"


def expert_parallel() -> bool:
    """Whether this engine gives each rank whole experts."""
    config = engine_config()
    return config is not None and bool(config.parallel_config.enable_expert_parallel)


def engine_config() -> Any:
    """The configuration that vLLM has set for the running code; None outside of loading.

    Before 0.27 there is none either where vLLM loads weights again.
    """
    current = getattr(sys.modules.get("vllm.config"), "get_current_vllm_config_or_none", None)
    return None if current is None else current()
