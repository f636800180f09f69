"""Prints where each of Run:ai's load formats in vLLM comes from, once vLLM's plugins are loaded.

Run it as `python -m tests.vllm.registered`. A second line says whether vLLM has the loader that
writes shards.
"""

from __future__ import annotations

import importlib
from typing import Any


def main() -> None:
    plugins: Any = importlib.import_module("vllm.plugins")
    plugins.load_general_plugins()
    registry = importlib.import_module("vllm.model_executor.model_loader")
    table: dict[str, type] = registry._LOAD_FORMAT_TO_MODEL_LOADER
    print({name: loader.__module__ for name, loader in table.items() if "runai" in name})  # noqa: T201  the answer
    print("streamerd_save" in table)  # noqa: T201  the answer


if __name__ == "__main__":
    main()
