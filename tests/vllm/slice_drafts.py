"""Small draft models that vLLM loads beside the Llama model: Medusa heads and an EAGLE layer.

Owns their files and vLLM's arguments for them. The numbers are random, as those of
`slice_checkpoints.py`. Runs in a process that has vLLM.
"""

from __future__ import annotations

import json
import os
from typing import Any, Final

import torch

from tests.vllm.slice_checkpoints import HIDDEN, VOCABULARY

HEADS: Final = 2
"""The number of tokens that the Medusa heads foretell."""
DRAFTS: Final = ("medusa", "eagle")


def make_draft(kind: str, target: str, directory: str) -> dict[str, Any]:
    """The engine's `speculative_config`, with the draft model made if it is not there yet."""
    path = os.path.join(directory, kind)
    if not os.path.exists(path):
        os.makedirs(path)
        torch.manual_seed(1)
        if kind == "medusa":
            _medusa(path)
        else:
            _eagle(path, target)
    return {"method": kind, "model": path, "num_speculative_tokens": HEADS}


def _medusa(path: str) -> None:
    tensors = {}
    for head in range(HEADS):
        tensors[f"blocks.{head}.layers.0.weight"] = torch.randn(HIDDEN, HIDDEN)
        tensors[f"lm_heads.{head}.weight"] = torch.randn(VOCABULARY, HIDDEN)
    config = {
        "model_type": "medusa",
        "architectures": ["MedusaModel"],
        "hidden_size": HIDDEN,
        "vocab_size": VOCABULARY,
        "num_heads": HEADS,
        "num_hidden_layers": 1,
    }
    _write(path, tensors, config)


def _eagle(path: str, target: str) -> None:
    """One layer of the target's form, and the projection that joins a token with the target's
    hidden state.

    EAGLE's first layer has no norm before its attention.
    """
    from safetensors.torch import load_file

    stored: dict[str, torch.Tensor] = {}
    for name in sorted(os.listdir(target)):
        if name.endswith(".safetensors"):
            stored |= load_file(os.path.join(target, name))
    drawn = {
        name.removeprefix("model."): torch.randn_like(tensor)
        for name, tensor in stored.items()
        if name.startswith(("model.layers.0.", "model.embed_tokens."))
        and not name.endswith(".input_layernorm.weight")
    }
    drawn["fc.weight"] = torch.randn(HIDDEN, 2 * HIDDEN)
    with open(os.path.join(target, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    _write(path, drawn, config | {"num_hidden_layers": 1})


def _write(path: str, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    stored = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(stored, os.path.join(path, "model.safetensors"), {"format": "pt"})
    with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config | {"dtype": "bfloat16"}, file)
