"""Where this process stands among vLLM's ranks. Valid once vLLM made its process groups."""

from __future__ import annotations

import torch

from streamer_vllm.pattern import Place


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
    """The rank for people; 0 when nothing is distributed."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_initialized() else 0
