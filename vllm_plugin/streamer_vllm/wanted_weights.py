"""What of a checkpoint a rank uses, where vLLM tells: names to ask for, and the device to ask for.

Which experts are this rank's, and which tensors a model leaves unread, is vLLM's own judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

Unwanted = Callable[[str], bool]


def wanted_names(names: Iterable[str], unwanted: Unwanted) -> frozenset[str] | None:
    """The names that are not unwanted; None if that is all of them."""
    found = list(names)
    kept = frozenset(name for name in found if not unwanted(name))
    return None if len(kept) == len(found) else kept


def unwanted_weights(model: nn.Module, model_config: ModelConfig) -> Unwanted | None:
    """Tells a weight's name that this rank will not read; None if it reads all.

    An older vLLM tells less; then more is read than is used, as it does itself.
    """
    unused = cast("Unwanted | None", getattr(model, "is_unused_checkpoint_weight", None))
    foreign = _foreign_experts(model_config)
    if unused is None or foreign is None:
        return unused or foreign
    return lambda name: unused(name) or foreign(name)


def _foreign_experts(model_config: ModelConfig) -> Unwanted | None:
    """Weights of experts of other ranks, with expert parallelism."""
    loader: Any = DefaultModelLoader(LoadConfig())
    find = getattr(loader, "_init_ep_weight_filter", None)
    if find is None:
        return None
    find(model_config)
    local: set[int] | None = loader.local_expert_ids
    if local is None:
        return None
    from vllm.model_executor.model_loader.ep_weight_filter import (  # noqa: PLC0415  newer vLLM
        should_skip_weight,
    )

    return lambda name: bool(should_skip_weight(name, local))


def device_of(model: nn.Module) -> torch.device:
    """Where to make tensors that the model copies from: its GPU, else the CPU."""
    devices = (parameter.device for parameter in model.parameters())
    return next((device for device in devices if device.type == "cuda"), torch.device("cpu"))
