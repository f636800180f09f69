"""The private load format `streamerd_save`: vLLM's own loading, then writing this rank's shard.

Writing happens at the end of `load_weights`, before vLLM repacks weights for the device. So the
files hold what a loader must put there, on every platform and also for quantised methods. Runs in
each rank of the process tree that `command.py` starts.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from safetensors.torch import save_file
from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from streamer_client.contract.errors import ConfigError
from streamer_vllm.loaders import UnshardedLoader, check_takes_shards, state_dict_to_load
from streamer_vllm.ranks import current_place
from streamer_vllm.registration import UNSHARDED_FORMAT
from streamer_vllm.sharding.model_files import apply_umask
from streamer_vllm.sharding.pattern import file_name
from streamer_vllm.sharding.worker_errors import leaving_errors

WRITER_KEYS: Final = ("directory", "pattern", "max_file_bytes", "weights")


@dataclass(frozen=True, slots=True)
class Target:
    """The place where a rank writes, and the form of its files."""

    directory: str
    pattern: str | None = None
    max_file_bytes: int | None = None
    weights: str | None = None
    """The place of the weights in an object store; None if they lie with the model."""


class ShardWriter(DefaultModelLoader):
    """vLLM's default loader, which then writes. Its extra config has the fields of a `Target`."""

    def __init__(self, load_config: LoadConfig) -> None:
        extra = dict(load_config.model_loader_extra_config)
        if not set(extra) <= set(WRITER_KEYS) or "directory" not in extra:
            raise ConfigError(
                "the load format streamerd_save is how `streamerctl shard` writes; "
                "load with runai_streamer or runai_streamer_sharded"
            )
        self.target = Target(**extra)
        super().__init__(LoadConfig(load_format="auto", download_dir=load_config.download_dir))

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        with leaving_errors(self.target.directory):
            check_takes_shards(model, model_config.quantization)
            self._load(model, model_config)
        write_shard(state_dict_to_load(model), self.target)

    def _load(self, model: nn.Module, model_config: ModelConfig) -> None:
        if self.target.weights is None:
            super().load_weights(model, model_config)
        else:
            stored = copy.copy(model_config)
            stored.model_weights = self.target.weights
            UnshardedLoader(LoadConfig(load_format=UNSHARDED_FORMAT)).load_weights(model, stored)


def write_shard(tensors: Mapping[str, torch.Tensor], target: Target) -> None:
    """Write one rank's tensors, in parts of at most `max_file_bytes`; a larger tensor is alone."""
    place = current_place()
    for part, group in enumerate(_parts(tensors, target.max_file_bytes)):
        path = os.path.join(target.directory, file_name(target.pattern, place, part))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        stored = {name: tensor.detach().cpu().contiguous() for name, tensor in group.items()}
        save_file(stored, path)
        apply_umask(path, 0o666)  # safetensors makes it for the owner alone


def _parts(
    tensors: Mapping[str, torch.Tensor], max_bytes: int | None
) -> Iterator[dict[str, torch.Tensor]]:
    part: dict[str, torch.Tensor] = {}
    part_bytes = 0
    for name, tensor in tensors.items():
        size_bytes = tensor.numel() * tensor.element_size()
        if part and max_bytes is not None and part_bytes + size_bytes > max_bytes:
            yield part
            part, part_bytes = {}, 0
        part[name] = tensor
        part_bytes += size_bytes
    if part:
        yield part
