"""Puts the loaders where vLLM looks for them, at the moment when vLLM itself imports that place.

Owns the hook and the names. Importing vLLM's loaders takes seconds and pulls torch in, which an API
server never needs: so the import is awaited, not made. Runs in every vLLM process.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Final

REGISTRY_MODULE: Final = "vllm.model_executor.model_loader"
UNSHARDED_FORMAT: Final = "runai_streamer"
SHARDED_FORMAT: Final = "runai_streamer_sharded"
WRITER_FORMAT: Final = "streamerd_save"
WRITER_ENV: Final = "STREAMERD_SHARD_WRITER"
"""Set to `1` by the shard writer for its own workers; nobody else meets its load format."""

_LOADERS: Final = {
    UNSHARDED_FORMAT: ("streamer_vllm.unsharded", "UnshardedLoader"),
    SHARDED_FORMAT: ("streamer_vllm.sharded", "ShardedLoader"),
}
_WRITER: Final = {WRITER_FORMAT: ("streamer_vllm.shard_writer", "ShardWriter")}


def install() -> None:
    """Register now if vLLM has its loaders imported, else as soon as it does. Idempotent."""
    module = sys.modules.get(REGISTRY_MODULE)
    if module is not None:
        register_loaders(module)
    elif not any(isinstance(finder, _Awaiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Awaiting())


def register_loaders(registry: ModuleType) -> None:
    """Register each loader that is not in its place yet."""
    table: dict[str, type] = getattr(registry, "_LOAD_FORMAT_TO_MODEL_LOADER", {})
    wanted = _LOADERS | (_WRITER if os.environ.get(WRITER_ENV) == "1" else {})
    for load_format, (module, name) in wanted.items():
        loader = getattr(importlib.import_module(module), name)
        if table.get(load_format) is not loader:
            # With the stock loader out of the way, vLLM does not warn that it is replaced.
            table.pop(load_format, None)
            registry.register_model_loader(load_format)(loader)


class _Awaiting(importlib.abc.MetaPathFinder):
    """Finds nothing of its own; runs `register_loaders` right after the one import it awaits."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != REGISTRY_MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(importlib.abc.Loader):
    """A module's own loader, and the registration after it."""

    def __init__(self, inner: importlib.abc.Loader) -> None:
        self._inner = inner

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._inner
        self._inner.exec_module(module)
        register_loaders(module)
