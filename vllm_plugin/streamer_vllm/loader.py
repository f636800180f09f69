"""What both load formats share: options, the way back to the stock loader, downloads."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from streamer_client.contract.modes import Mode
from streamer_vllm.options import Options, parse_options
from streamer_vllm.stock import stock_loader
from streamer_vllm.weight_files import weights_folder, weights_name


class StreamerLoader(BaseModelLoader):
    """Base of the two loaders; `load_weights` is theirs."""

    sharded: ClassVar[bool]
    options: Options

    def __new__(cls, load_config: LoadConfig) -> Any:
        """Mode `off` in the extra config means vLLM's own loader.

        Raises:
            ValueError: the extra config has a key or a value that the format does not know.
        """
        extra_config = load_config.model_loader_extra_config
        options = parse_options(extra_config, os.environ, sharded=cls.sharded)
        if options.mode is Mode.OFF:
            return stock_loader(load_config, sharded=cls.sharded)
        loader = super().__new__(cls)
        loader.options = options
        return loader

    def folder(self, model_config: ModelConfig) -> str:
        """The local directory of the model's weights, downloaded if they are not there yet."""
        name = weights_name(model_config)
        return weights_folder(name, model_config.revision, self.load_config)

    def download_model(self, model_config: ModelConfig) -> None:
        self.folder(model_config)
