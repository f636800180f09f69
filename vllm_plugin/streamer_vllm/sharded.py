"""The load format `runai_streamer_sharded`: each rank reads only the files written for it.

The files hold the rank's state dict as it is, so their bytes go straight into the parameters'
memory.
"""

from __future__ import annotations

import logging
import os

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader

from streamer_client.contract.printable import printable
from streamer_client.tensors.selection import CatalogEntry
from streamer_vllm.loader import StreamerLoader
from streamer_vllm.pattern import file_glob
from streamer_vllm.place import current_place
from streamer_vllm.session import opened

log = logging.getLogger(f"vllm.{__name__}")  # vLLM configures what is below `vllm` only


class ShardedLoader(StreamerLoader):
    """Loads a rank's own shard into its parameters."""

    sharded = True

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        folder = self.folder(model_config)
        below, pattern = os.path.split(file_glob(self.options.pattern, current_place()))
        with opened(
            self.options,
            os.path.join(folder, below) if below else folder,
            pattern=pattern,
            hold=False,
            bar=self.load_config.use_tqdm_on_load,
        ) as checkpoint:
            checkpoint.load_into(state_dict_to_load(model), on_mismatch=_warn)


def state_dict_to_load(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a sharded checkpoint holds of a model: of tensors that share memory, the largest.

    This is vLLM's own choice, so that files written by the one load with the other.
    """
    chosen: dict[str, torch.Tensor] = ShardedStateLoader._filter_subtensors(  # noqa: SLF001
        model.state_dict()
    )
    return chosen


def _warn(name: str, stored: CatalogEntry, target: torch.Tensor) -> None:
    """Tell of a parameter that is not what is stored, such as one padded for LoRA."""
    log.warning(
        "streamerd: %s is stored as %s %s and loaded into a parameter of %s %s",
        printable(name),
        stored.dtype,
        list(stored.shape),
        target.dtype,
        list(target.shape),
    )
