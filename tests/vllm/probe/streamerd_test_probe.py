"""A vLLM plugin for tests, which records a model's content right after loading.

In each worker it wraps the step that follows `load_weights`, whatever the loader. For each rank it
writes the digest of every tensor to `$LOAD_PROBE_DIR`. If `$LOAD_PROBE_SAVE` asks for it, it also
writes the shard that vLLM's own `save_model` makes.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from typing import Any


def register() -> None:
    directory = os.environ.get("LOAD_PROBE_DIR")
    if not directory:
        return
    base_loader: Any = importlib.import_module("vllm.model_executor.model_loader.base_loader")
    following = base_loader.process_weights_after_loading
    if getattr(following, "probed", False):
        return

    def probing(model: Any, *arguments: Any) -> None:
        _record(model, directory)
        following(model, *arguments)

    probing.probed = True  # type: ignore[attr-defined]
    base_loader.process_weights_after_loading = probing


def _record(model: Any, directory: str) -> None:
    from vllm.distributed import get_pp_group, get_tp_group
    from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader

    name = f"pp{get_pp_group().rank_in_group}-tp{get_tp_group().rank_in_group}.json"
    digests = {key: _digest(tensor) for key, tensor in model.state_dict().items()}
    with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
        json.dump(digests, file)
    if shard_directory := os.environ.get("LOAD_PROBE_SAVE"):
        ShardedStateLoader.save_model(model, shard_directory)


def _digest(tensor: Any) -> str:
    import torch

    stored = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    content = hashlib.sha256(stored.tobytes()).hexdigest()
    return f"{tensor.dtype} {list(tensor.shape)} {content}"
