"""A model's files that are not weights (configuration, tokenizer, code), copied beside new shards.

The model is a directory, a Hugging Face id, or a prefix of an object store.
"""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
from collections.abc import Callable
from typing import Any, Final

from streamer_client.contract.uris import is_remote
from streamer_client.runai.pulling import pull_chosen

WEIGHTS: Final = (
    "*.safetensors",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.gguf",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.tensors",
    "*.index.json",
)

_DERIVED: Final = ("modules_in_block_to_quantize", "modules_to_not_convert")


def copy_model_files(model: str, directory: str, revision: str | None) -> None:
    """Copy the files directly in the model's folder that are not weights.

    Raises:
        SourceError: the object store of the model does not provide them.
    """
    if is_remote(model):
        pull_chosen(model, directory, lambda _uri, name: "/" not in name and not is_weights(name))
        return
    folder = model if os.path.isdir(model) else _snapshot(model, revision)
    for entry in os.scandir(folder):
        if entry.is_file() and not is_weights(entry.name):
            shutil.copyfile(entry.path, os.path.join(directory, entry.name))


def is_weights(name: str) -> bool:
    """Whether a file holds weights, or an index of weights."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in WEIGHTS)


def untie_word_embeddings(directory: str) -> None:
    """Say in `config.json` that the head is not the embedding.

    This is for a model whose checkpoint has both while its configuration says that they are one.
    vLLM then believes the checkpoint. In a sharded checkpoint vLLM cannot see that, so the
    configuration must be right.
    """

    def untie(config: dict[str, Any]) -> None:
        config["tie_word_embeddings"] = False
        if isinstance(config.get("text_config"), dict):
            config["text_config"]["tie_word_embeddings"] = False

    _change(os.path.join(directory, "config.json"), untie)


def record_quantized_modules(directory: str, quantization: object) -> None:
    """Write the quantised modules into the configuration, if vLLM took them from tensors' names.

    GPTQ and AWQ checkpoints may leave them out; vLLM then looks at the tensors' names. The tensors
    of a sharded checkpoint have other names, as they are fused.

    Args:
        directory: the new checkpoint, with its configuration.
        quantization: vLLM's quantization config after it looked; None for an unquantised model.
    """
    derived = {
        name: sorted(modules)
        for name in _DERIVED
        if isinstance(modules := getattr(quantization, name, None), list) and modules
    }
    if not derived:
        return

    def record(config: dict[str, Any]) -> None:
        inner = config.get("text_config")
        for holder in (config, inner if isinstance(inner, dict) else {}):
            if isinstance(holder.get("quantization_config"), dict):
                _fill(holder["quantization_config"], derived)

    _change(os.path.join(directory, "config.json"), record)
    older = os.path.join(directory, "quantize_config.json")
    if os.path.isfile(older):
        _change(older, lambda config: _fill(config, derived))


def _fill(config: dict[str, Any], derived: dict[str, list[str]]) -> None:
    for name, modules in derived.items():
        if not config.get(name):
            config[name] = modules


def _change(path: str, change: Callable[[dict[str, Any]], None]) -> None:
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    change(config)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2)
        file.write("\n")


def apply_umask(path: str, mode: int) -> None:
    """Give a file or directory that was made private the permissions of any other new one.

    Otherwise a daemon that runs as another user could not read it.
    """
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(path, mode & ~umask)


def _snapshot(model: str, revision: str | None) -> str:
    from huggingface_hub import constants, snapshot_download  # noqa: PLC0415  comes with vLLM

    return str(
        snapshot_download(
            model,
            revision=revision,
            ignore_patterns=[*WEIGHTS, "original/**/*"],
            local_files_only=constants.HF_HUB_OFFLINE,
        )
    )
