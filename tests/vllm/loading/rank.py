"""The work of one rank of the harness: it loads a model and tells what the model holds then.

Owns one load with vLLM's own functions, from the engine's arguments to the finished model, and the
digests of its parameters and buffers. There is no worker, cache or step. Each rank runs this in a
process of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers import rotary_embedding
from vllm.model_executor.model_loader import base_loader, get_model
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

Digests = dict[str, str]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that is ready to run."""

    model: nn.Module
    config: VllmConfig
    digests: Digests
    """Digests taken right after the weights were loaded, before vLLM converts them for its kernels.
    """


def engine_config(arguments: dict[str, Any]) -> VllmConfig:
    return EngineArgs(
        enforce_eager=True, max_model_len=128, max_num_seqs=4, seed=0, **arguments
    ).create_engine_config()


def load_config(config: VllmConfig, *, lora: bool = False) -> Loaded:
    """Load as a worker of vLLM does. If the engine has a draft model, only that one is loaded."""
    # All models of a process share this dictionary, and a worker's process has only one model.
    rotary_embedding._ROPE_DICT.clear()
    digests: Digests = {}
    with set_current_vllm_config(config), _looking(digests):
        if config.speculative_config is None:
            model = get_model(vllm_config=config)
        else:
            model, config = _draft(config)
        if lora:
            model = _wrapped(model, config)
    return Loaded(model, config, digests)


def _draft(config: VllmConfig) -> tuple[nn.Module, VllmConfig]:
    """The configuration of the draft model alone, as vLLM's proposer makes it."""
    from vllm.v1.spec_decode.draft_model import DraftModelProposer

    proposer: Any = object.__new__(DraftModelProposer)
    proposer.vllm_config = config
    proposer.speculative_config = config.speculative_config
    # No public method does only this.
    return proposer._get_model(), proposer._create_draft_vllm_config()


def _wrapped(model: nn.Module, config: VllmConfig) -> nn.Module:
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    wrapped: nn.Module = LoRAModelRunnerMixin().load_lora_model(model, config, torch.device("cpu"))
    return wrapped


@contextmanager
def _looking(digests: Digests) -> Iterator[None]:
    """Take the digests of each model between `load_weights` and the steps that follow."""
    place: Any = base_loader
    following = place.process_weights_after_loading

    def look(model: nn.Module, *arguments: Any) -> None:
        digests.update(digests_of(model))
        following(model, *arguments)

    place.process_weights_after_loading = look
    try:
        yield
    finally:
        place.process_weights_after_loading = following


def digests_of(model: nn.Module) -> Digests:
    """The form and the bytes of each parameter and buffer, also of buffers that are not saved."""
    found = (*model.named_parameters(), *model.named_buffers())
    return {name: _digest(tensor.detach()) for name, tensor in found}


def _digest(tensor: torch.Tensor) -> str:
    form = f"{tensor.dtype} {list(tensor.shape)}"
    if tensor.device.type == "meta":
        return f"{form} meta"
    content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{form} {hashlib.sha256(content).hexdigest()[:16]}"


def discard(model: nn.Module) -> None:
    """Do to a model what sleeping at level 2 does: buffers are kept, parameters lose
    their content.
    """
    for parameter in model.parameters():
        parameter.data.view(torch.uint8 if parameter.dim() else parameter.dtype).fill_(85)


def reload(loaded: Loaded, **how: Any) -> Digests:
    """Call a worker's `reload_weights`; from 0.27 on it also sets the engine's configuration."""
    worker: Any = SimpleNamespace(vllm_config=loaded.config, model_runner=_Runner(loaded))
    Worker.reload_weights(worker, **how)
    return digests_of(loaded.model)


class _Runner(GPUModelRunner):
    """What `reload_weights` needs of vLLM's runner, and none of what else a runner makes.

    Versions differ in which attributes they read: the engine's configuration (from 0.32) or its
    parts.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.model = loaded.model
        self.vllm_config = loaded.config
        self.model_config = loaded.config.model_config
        self.load_config = loaded.config.load_config
        self.lora_config = loaded.config.lora_config

    def reset_lora_state(self) -> None:
        """Do nothing, as the two methods below: no adapter was added and no request served."""

    def reset_encoder_cache(self) -> None: ...

    def reset_mm_cache(self) -> None: ...
