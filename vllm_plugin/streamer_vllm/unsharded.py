"""The load format `runai_streamer`: any safetensors checkpoint, read once for all ranks.

Every rank goes through the checkpoint, except for what vLLM tells that it will not use, and the
model takes what it needs. On the CPU tensors are views of the shared slabs, so nothing is copied
but what a rank keeps; for a GPU they are made there, a bounded way ahead.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from streamer_vllm.loader import StreamerLoader
from streamer_vllm.session import opened
from streamer_vllm.slices import weights_of
from streamer_vllm.wanted_weights import unwanted_weights, wanted_names
from streamer_vllm.weight_files import needed_files


class UnshardedLoader(StreamerLoader):
    """Streams a checkpoint into `model.load_weights`."""

    sharded = False

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        folder = self.folder(model_config)
        with opened(
            self.options,
            folder,
            files=needed_files(folder),
            hold=True,
            bar=self.load_config.use_tqdm_on_load,
        ) as checkpoint:
            unwanted = unwanted_weights(model, model_config)
            names = None if unwanted is None else wanted_names(checkpoint.catalog, unwanted)
            with weights_of(checkpoint, model, names, self.options) as weights:
                loaded = cast("Any", model).load_weights(weights)
        if loaded is not None and model_config.quantization is None:
            # vLLM's default loader knows which parameters need not be in a checkpoint.
            DefaultModelLoader(LoadConfig()).track_weights_loading(model, loaded)
