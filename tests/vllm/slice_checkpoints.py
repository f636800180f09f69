"""Small checkpoints of many architectures, whose loaders cut and convert weights in different ways.

The numbers are random, as tests compare parameters and never a model's answers. Runs in a process
that has vLLM and transformers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Final

import torch

HIDDEN, INNER, LAYERS, HEADS, VOCABULARY = 256, 512, 4, 4, 512
GROUP: Final = 128
"""The number of inputs that share a scale in GPTQ and AWQ."""
_COMMON: Final = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_EXPERTS: Final = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": INNER // 2,
    "head_dim": 64,
}

SETTINGS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}),
    "tied": ("qwen3", {"tie_word_embeddings": True, "head_dim": 64}),
    "experts": ("qwen3_moe", {**_EXPERTS, "tie_word_embeddings": False}),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "gpt2": ("gpt2", {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 256}),
    "gemma2": ("gemma2", {"head_dim": 64, "sliding_window": 128}),
    "phi3": ("phi3", {"tie_word_embeddings": False}),
    "neox": ("gpt_neox", {}),
    "bert": ("bert", {}),
    "bloom": ("bloom", {"n_layer": LAYERS, "n_head": HEADS}),
    "llama4": (
        "llama4_text",
        {
            "num_local_experts": 4,
            "intermediate_size_mlp": INNER,
            "head_dim": 64,
            "interleave_moe_layer_step": 2,
        },
    ),
    "falcon": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": HEADS}),
}
"""For each type of model, the values of its configuration beside the common ones."""
QUANTIZED: Final = ("gptq", "awq", "int8")


def make(kind: str, directory: str) -> str:
    """The directory of a checkpoint, made if it is not there yet."""
    path = os.path.join(directory, kind)
    if not os.path.exists(path):
        if kind in QUANTIZED:
            _quantized(kind, make("llama", directory), path)
        else:
            _plain(kind, path)
    return path


def _plain(kind: str, path: str) -> None:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    model_type, own = SETTINGS[kind]
    config = AutoConfig.for_model(model_type, **{**_COMMON, **own})
    maker: Any = AutoModel if kind == "bert" else AutoModelForCausalLM
    torch.manual_seed(0)
    model = maker.from_config(config).to(torch.bfloat16)
    for name, parameter in model.named_parameters():  # norms must differ from each other too
        parameter.data.normal_(std=0.05, mean=1.0 if "norm" in name else 0.0)
    model.save_pretrained(path, max_shard_size="2MB")


def _quantized(kind: str, plain: str, path: str) -> None:
    """The Llama model with linear layers of integers, as the tools of each kind write them."""
    from safetensors.torch import load_file, save_file

    os.makedirs(path)
    convert, settings = _KINDS[kind]
    tensors: dict[str, torch.Tensor] = {}
    for name in sorted(os.listdir(plain)):
        if name.endswith(".safetensors"):
            for key, weight in load_file(os.path.join(plain, name)).items():
                linear = key.endswith("_proj.weight")
                stem = key.removesuffix(".weight")
                tensors |= convert(stem, *weight.shape) if linear else {key: weight}
    save_file(tensors, os.path.join(path, "model.safetensors"), {"format": "pt"})
    with open(os.path.join(plain, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    config |= {"quantization_config": settings, "dtype": "float16" if kind == "awq" else "bfloat16"}
    with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)


def _integers(*shape: int) -> torch.Tensor:
    return torch.randint(-(1 << 31), 1 << 31, shape, dtype=torch.int32)


def _gptq(stem: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.qweight": _integers(inputs // 8, outputs),
        f"{stem}.qzeros": _integers(inputs // GROUP, outputs // 8),
        f"{stem}.scales": torch.rand(inputs // GROUP, outputs, dtype=torch.float16),
        f"{stem}.g_idx": (torch.arange(inputs) // GROUP).int(),
    }


def _awq(stem: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.qweight": _integers(inputs, outputs // 8),
        f"{stem}.qzeros": _integers(inputs // GROUP, outputs // 8),
        f"{stem}.scales": torch.rand(inputs // GROUP, outputs, dtype=torch.float16),
    }


def _int8(stem: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.weight": torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8),
        f"{stem}.weight_scale": torch.rand(outputs, 1).bfloat16(),
    }


_INTEGERS: Final = {"num_bits": 8, "type": "int", "symmetric": True}
_INT8_SETTINGS: Final = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**_INTEGERS, "strategy": "channel", "dynamic": False},
            "input_activations": {**_INTEGERS, "strategy": "token", "dynamic": True},
        }
    },
}
_KINDS: Final[dict[str, tuple[Callable[..., dict[str, torch.Tensor]], dict[str, Any]]]] = {
    "gptq": (
        _gptq,
        {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True},
    ),
    "awq": (
        _awq,
        {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True},
    ),
    "int8": (_int8, _INT8_SETTINGS),
}
