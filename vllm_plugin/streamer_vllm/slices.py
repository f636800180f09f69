"""Decides whether a rank fetches slices of tensors or whole ones, and yields the weights.

Under tensor parallelism a rank keeps a part of most tensors; under expert parallelism it keeps some
tensors whole. If it keeps everything, slices gain nothing. Runs in the rank's own thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn
from vllm.distributed import get_pp_group, get_tp_group

from streamer_client.checkpoint import Checkpoint
from streamer_client.tensors.foretelling import RankPlace
from streamer_client.tensors.lazy_assignments import no_lazy_left
from streamer_client.tensors.staging import SMALL_BYTES
from streamer_vllm.options import Options, Slices
from streamer_vllm.wanted_weights import device_of

ON_CPU_ENV: Final = "STREAMERD_SLICES_ON_CPU"
"""For tests: fetch slices on the CPU too, of tensors larger than this number of bytes."""


@contextmanager
def weights_of(
    checkpoint: Checkpoint, model: nn.Module, names: frozenset[str] | None, options: Options
) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
    """The weights for `model.load_weights`; on leaving, the model holds no lazy tensor."""
    device = device_of(model)
    small_bytes = _small_bytes(device)
    if small_bytes is None or options.slices is Slices.OFF:
        yield checkpoint.tensors(device, names)
        return
    tensor = get_tp_group()
    # In a pipeline stage of one rank, the rank takes whole tensors, and none of other stages.
    place = RankPlace(tensor.rank_in_group, tensor.world_size) if tensor.world_size > 1 else None
    with (
        checkpoint.slices(device, names, small_bytes=small_bytes, place=place) as weights,
        no_lazy_left(model),
    ):
        yield weights


def _small_bytes(device: torch.device) -> int | None:
    """Up to how many bytes tensors are fetched whole; None if all are."""
    forced = os.environ.get(ON_CPU_ENV)
    if forced:
        return int(forced)
    if device.type != "cuda":
        return None
    ranks = get_tp_group().world_size * get_pp_group().world_size
    return SMALL_BYTES if ranks > 1 else None
