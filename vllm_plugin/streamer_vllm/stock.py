"""The way back to vLLM's own loaders, for `mode` = `off` in the extra config."""

from __future__ import annotations

import copy

from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader.base_loader import BaseModelLoader
from vllm.model_executor.model_loader.runai_streamer_loader import RunaiModelStreamerLoader
from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader

_OWN_KEYS = frozenset({"mode", "socket"})


def stock_loader(load_config: LoadConfig, *, sharded: bool) -> BaseModelLoader:
    """The stock loader of the same name, without the keys that only streamerd knows."""
    plain = copy.copy(load_config)
    plain.model_loader_extra_config = {
        key: value
        for key, value in dict(load_config.model_loader_extra_config).items()
        if key not in _OWN_KEYS
    }
    return ShardedStateLoader(plain) if sharded else RunaiModelStreamerLoader(plain)
