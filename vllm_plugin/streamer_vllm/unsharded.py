"""The load format `runai_streamer`: any safetensors checkpoint, read once for all ranks.

Every rank goes through the whole checkpoint and the model takes what it needs. Tensors are views of
the shared slabs, so nothing is copied but what a rank keeps.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from streamer_vllm.loader import StreamerLoader
from streamer_vllm.session import opened
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
            loaded = cast("Any", model).load_weights(checkpoint.tensors())
        if loaded is not None and model_config.quantization is None:
            # vLLM's default loader knows which parameters need not be in a checkpoint.
            DefaultModelLoader(LoadConfig()).track_weights_loading(model, loaded)
