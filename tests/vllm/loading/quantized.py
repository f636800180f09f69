"""Small checkpoints of quantised models, made from the demo's dense model.

Owns the names, shapes and packing that GPTQ, AWQ and compressed-tensors give a linear layer. The
numbers are random and not fitted, as it only matters that the stock loader takes them. Runs in the
harness before its ranks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file

GROUP: Final = 32
"""The number of inputs that share a scale."""
PACKED: Final = 8
"""The number of four-bit numbers in an int32."""

GPTQ_CONFIG: Final = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": GROUP,
    "desc_act": False,
    "sym": True,
    "lm_head": False,
}
AWQ_CONFIG: Final = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": GROUP,
    "zero_point": True,
    "version": "gemm",
}
INT8_CONFIG: Final = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "channel",
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}

Tensors = dict[str, torch.Tensor]
Quantize = Callable[[torch.Tensor, torch.Generator], Tensors]


def quantize_gptq(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    outputs, inputs = weight.shape
    return {
        "qweight": _integers((inputs // PACKED, outputs), generator),
        "qzeros": torch.full((inputs // GROUP, outputs // PACKED), 0x77777777, dtype=torch.int32),
        "scales": _scales((inputs // GROUP, outputs), generator),
        "g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
    }


def quantize_awq(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    outputs, inputs = weight.shape
    return {
        "qweight": _integers((inputs, outputs // PACKED), generator),
        "qzeros": _integers((inputs // GROUP, outputs // PACKED), generator),
        "scales": _scales((inputs // GROUP, outputs), generator),
    }


def quantize_int8(weight: torch.Tensor, generator: torch.Generator) -> Tensors:
    del generator  # int8 weights are computed, not drawn
    scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
    return {
        "weight": (weight.float() / scale).round().to(torch.int8),
        "weight_scale": scale,
    }


METHODS: Final[Mapping[str, tuple[Quantize, Mapping[str, Any]]]] = {
    "gptq": (quantize_gptq, GPTQ_CONFIG),
    "awq": (quantize_awq, AWQ_CONFIG),
    "int8": (quantize_int8, INT8_CONFIG),
}


def quantize_checkpoint(directory: Path, method: str, seed: int) -> None:
    """Replace the weight of each projection in a checkpoint by the tensors that the method stores
    for it.
    """
    quantize, config = METHODS[method]
    generator = torch.Generator().manual_seed(seed)
    owners: dict[str, str] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors: Tensors = {}
        for name, tensor in load_file(file).items():
            tensors |= _stored(name, tensor, quantize, generator)
        save_file(tensors, file, metadata={"format": "pt"})
        owners |= dict.fromkeys(tensors, file.name)
    index = {"metadata": {}, "weight_map": owners}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))


def _stored(
    name: str, tensor: torch.Tensor, quantize: Quantize, generator: torch.Generator
) -> Tensors:
    layer = name.removesuffix(".weight")
    if not layer.endswith("_proj"):
        return {name: tensor}
    return {f"{layer}.{part}": made for part, made in quantize(tensor, generator).items()}


def _integers(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int64).to(
        torch.int32
    )


def _scales(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    drawn = torch.rand(shape, generator=generator)
    return (drawn * 0.01 + 0.005).to(torch.bfloat16)
