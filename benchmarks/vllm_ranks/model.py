"""Makes a dense Llama of random weights, as Hugging Face lays one out: config, shards and index."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from safetensors.torch import save_file


class Shape(NamedTuple):
    """The sizes of a Llama."""

    hidden: int
    inner: int
    layers: int
    words: int
    heads: int
    key_heads: int
    layers_of_a_file: int


LLAMA_8B = Shape(4096, 14336, 32, 128256, 32, 8, 8)
"""Llama 3 8B: 16.06 GB of BF16 in five files."""
TINY = Shape(256, 512, 4, 1024, 8, 4, 2)
_DONE = "made"


def made(directory: str, shape: Shape) -> int:
    """Make the model if it is not there yet; return the bytes of its shards."""
    done = os.path.join(directory, _DONE)
    if not os.path.exists(done):
        os.makedirs(directory, exist_ok=True)
        _write_config(directory, shape)
        _write_shards(directory, shape)
        open(done, "w").close()
    shards = [name for name in os.listdir(directory) if name.endswith(".safetensors")]
    return sum(os.path.getsize(os.path.join(directory, name)) for name in shards)


def _write_config(directory: str, shape: Shape) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "vocab_size": shape.words,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
    }
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)


def _write_shards(directory: str, shape: Shape) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device=device).manual_seed(3)
    index: dict[str, str] = {}
    for number, shapes in enumerate(_files(shape)):
        name = f"model-{number:05d}.safetensors"
        tensors = {
            key: torch.randn(size, device=device, generator=generator, dtype=torch.bfloat16)
            .mul_(0.03)
            .cpu()
            for key, size in shapes.items()
        }
        save_file(tensors, os.path.join(directory, name), metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))
    path = os.path.join(directory, "model.safetensors.index.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"metadata": {}, "weight_map": index}, file)


def _files(shape: Shape) -> Iterator[dict[str, tuple[int, ...]]]:
    """The tensors of each file: their names and shapes."""
    hidden, inner = shape.hidden, shape.inner
    keys = hidden // shape.heads * shape.key_heads
    of_a_layer = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    part: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.words, hidden)}
    for layer in range(shape.layers):
        part |= {f"model.layers.{layer}.{name}.weight": of_a_layer[name] for name in of_a_layer}
        if layer % shape.layers_of_a_file == shape.layers_of_a_file - 1:
            yield part
            part = {}
    yield part | {"model.norm.weight": (hidden,), "lm_head.weight": (shape.words, hidden)}
