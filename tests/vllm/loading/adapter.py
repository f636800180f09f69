"""A small LoRA adapter for the demo's dense model, in the form that PEFT saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file

RANK: Final = 8
MODULES: Final = ("q_proj", "v_proj", "down_proj")


def write_adapter(directory: Path, model: Path, seed: int = 3) -> None:
    """Write an adapter for a model's attention and MLP; strong enough to change its answers."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  no mapping
                layer = name.removesuffix(".weight")
                if layer.rpartition(".")[2] in MODULES:
                    outputs, inputs = stored.get_slice(name).get_shape()
                    prefix = f"base_model.model.{layer}"
                    tensors[f"{prefix}.lora_A.weight"] = _drawn((RANK, inputs), generator)
                    tensors[f"{prefix}.lora_B.weight"] = _drawn((outputs, RANK), generator)
    directory.mkdir(exist_ok=True)
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 16,
        "target_modules": list(MODULES),
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))


def _drawn(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    return (torch.randn(shape, generator=generator) * 0.1).to(torch.bfloat16)
