"""The weights of a checkpoint that a rank uses, as far as vLLM tells, and the device for them.

vLLM itself judges which experts are this rank's, and which tensors a model leaves unread.
Runs in each rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import nn
from vllm.config import ModelConfig

from streamer_vllm.ranks import engine_config
from streamer_vllm.versions import foreign_experts

Unwanted = Callable[[str], bool]


def wanted_names(names: Iterable[str], unwanted: Unwanted) -> frozenset[str] | None:
    """The names that are not unwanted; None if no name is unwanted."""
    found = list(names)
    wanted = frozenset(name for name in found if not unwanted(name))
    return None if len(wanted) == len(found) else wanted


def unwanted_weights(model: nn.Module, model_config: ModelConfig) -> Unwanted | None:
    """Tells whether this rank will not read a weight, by its name; None if it reads all.

    An older vLLM tells less: before 0.27, nothing of experts where weights are loaded again, since
    no engine's configuration is set there. Then more is read than is used, as vLLM does itself.
    """
    unused = cast("Unwanted | None", getattr(model, "is_unused_checkpoint_weight", None))
    foreign = None if engine_config() is None else foreign_experts(model_config)
    if unused is None or foreign is None:
        return unused or foreign
    return lambda name: unused(name) or foreign(name)


def device_of(model: nn.Module) -> torch.device:
    """The device of tensors that the model copies from: its GPU, or else the CPU."""
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type == "cuda"), torch.device("cpu"))
