"""Registers loaders and Run:ai's functions in vLLM's modules, once vLLM imports these modules.

Owns the names in vLLM's modules that are replaced. Runs in every vLLM process.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Final

from streamer_vllm.awaited import when_imported
from streamer_vllm.log_lines import join_vllms_log
from streamer_vllm.versions import usable

REGISTRY_MODULE: Final = "vllm.model_executor.model_loader"
PULLING_MODULE: Final = "vllm.transformers_utils.runai_utils"
ITERATING_MODULE: Final = "vllm.model_executor.model_loader.weight_utils"

UNSHARDED_FORMAT: Final = "runai_streamer"
SHARDED_FORMAT: Final = "runai_streamer_sharded"
WRITER_FORMAT: Final = "streamerd_save"
WRITER_ENV: Final = "STREAMERD_SHARD_WRITER"
"""The shard writer sets it to `1` for its own workers; no other process has its load format."""

_LOADERS: Final = {
    UNSHARDED_FORMAT: ("streamer_vllm.loaders", "UnshardedLoader"),
    SHARDED_FORMAT: ("streamer_vllm.loaders", "ShardedLoader"),
}
_WRITER: Final = {WRITER_FORMAT: ("streamer_vllm.sharding.writer", "ShardWriter")}

_PULLING: Final = {
    "runai_pull_files": "pull_files",
    "runai_list_safetensors": "list_safetensors",
    "RunaiObjectStorageModel": "ObjectStorageModel",  # in vLLM's next, pull request 36696
}
_ITERATING: Final = {"SafetensorsStreamer": "SafetensorsStreamer"}

_RUNAI: Final = "streamer_client.runai"
_RUNAI_PACKAGE: Final = "runai_model_streamer"


def install() -> None:
    """Register now in imported modules, and in others after their import. Idempotent."""
    when_imported(REGISTRY_MODULE, register_loaders)
    when_imported(PULLING_MODULE, give_pulling)
    when_imported(ITERATING_MODULE, give_iterating)


def register_loaders(registry: ModuleType) -> None:
    """Register each loader that is not registered yet, if this vLLM has what the loaders need."""
    join_vllms_log()
    if not usable():
        return
    table: dict[str, type] = getattr(registry, "_LOAD_FORMAT_TO_MODEL_LOADER", {})
    wanted = _LOADERS | (_WRITER if os.environ.get(WRITER_ENV) == "1" else {})
    for load_format, (module, name) in wanted.items():
        loader = getattr(importlib.import_module(module), name)
        if table.get(load_format) is not loader:
            # Since the stock loader is removed first, vLLM does not warn that it is replaced.
            table.pop(load_format, None)
            registry.register_model_loader(load_format)(loader)


def give_pulling(module: ModuleType) -> None:
    """Let config and tokenizer of a model in an object store come through this project's storage.

    This is done even if Run:ai's package is installed. Credentials, endpoint, retries and the text
    of errors are then the same for config and weights, and Run:ai's S3 or GCS package is not
    needed.
    """
    _give(module, _PULLING)


def give_iterating(module: ModuleType) -> None:
    """Let vLLM's own loaders, which `mode` = `off` leaves in place, work without Run:ai's package.

    If Run:ai's package is installed, they use it, since a user who says `off` wants no other code.
    """
    current = getattr(module, "SafetensorsStreamer", None)
    if getattr(current, "__module__", "").partition(".")[0] != _RUNAI_PACKAGE:
        _give(module, _ITERATING)


def _give(module: ModuleType, names: dict[str, str]) -> None:
    """Set those of the names that this vLLM uses."""
    runai = importlib.import_module(_RUNAI)
    for theirs, ours in names.items():
        if hasattr(module, theirs):
            setattr(module, theirs, getattr(runai, ours))
