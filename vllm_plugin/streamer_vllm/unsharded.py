"""The load format `runai_streamer`: any safetensors checkpoint, read once for all ranks.

Every rank goes through the whole checkpoint and the model takes what it needs. Tensors are views of
the shared slabs, so nothing is copied but what a rank keeps.
"""

from __future__ import annotations

import os
from typing import Any, cast

from torch import nn
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from streamer_vllm.options import Options, parse_options
from streamer_vllm.session import opened
from streamer_vllm.stock import stock_loader
from streamer_vllm.weight_files import needed_files, weights_folder, weights_name


class UnshardedLoader(BaseModelLoader):
    """Streams a checkpoint into `model.load_weights`."""

    options: Options

    def __new__(cls, load_config: LoadConfig) -> Any:
        """Mode `off` in the extra config means vLLM's own loader."""
        options = parse_options(load_config.model_loader_extra_config, os.environ, sharded=False)
        if options.mode == "off":
            return stock_loader(load_config, sharded=False)
        loader = super().__new__(cls)
        loader.options = options
        return loader

    def download_model(self, model_config: ModelConfig) -> None:
        weights_folder(weights_name(model_config), model_config.revision, self.load_config)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        name = weights_name(model_config)
        folder = weights_folder(name, model_config.revision, self.load_config)
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
